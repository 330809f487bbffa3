"""The JSON schemas of the Understander's and the Evaluator's outputs, made from the domain.

Keys stand in the order in which the project writes them, which engines for guided decoding keep to. Invariant: what a
schema lets through has the domain's intents, entities, kinds, choices and codes; whether a verbatim value stands in the
customer's words remains for the validation to see.
"""

from collections.abc import Sequence

from agentmill.domains.base import Domain, Entity, Json

MAX_ALSO = 3
MAX_VIOLATIONS = 8
_LARGEST = 10**12
_SIMPLE: dict[type, Json] = {
    int: {"type": "integer", "minimum": -_LARGEST, "maximum": _LARGEST},
    float: {"type": "number"},
    bool: {"type": "boolean"},
}


def understanding_schema(domain: Domain, *, proposed: bool, max_text: int) -> Json:
    """What the Understander may write; it can only confirm what was `proposed`."""
    planned = [name for name, intent in domain.intents.items() if intent.tools]
    properties: Json = {"intent": {"enum": list(domain.intents)}}
    if len(planned) > 1:
        properties["also"] = {"type": "array", "items": {"enum": planned}, "maxItems": MAX_ALSO}
    entities = {name: _entity(entity, max_text) for name, entity in domain.entities.items()}
    properties["entities"] = {"type": "object", "properties": entities, "additionalProperties": False}
    properties["confirmed"] = {"type": "boolean"} if proposed else {"enum": [False]}
    properties["question"] = {"anyOf": [_text(max_text), {"type": "null"}]}
    return _object(properties, [name for name in properties if name != "also"])


def verdict_schema(codes: Sequence[str]) -> Json:
    """What the Evaluator may write: that all is well, or at least one of `codes`."""
    named = {"type": "array", "items": {"enum": list(codes)}, "minItems": 1, "maxItems": MAX_VIOLATIONS}
    good = {"ok": {"enum": [True]}, "violations": {"type": "array", "items": {"enum": list(codes)}, "maxItems": 0}}
    bad = {"ok": {"enum": [False]}, "violations": named}
    return {"anyOf": [_object(good, list(good)), _object(bad, list(bad))]}


def _object(properties: Json, required: list[str]) -> Json:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _entity(entity: Entity, max_text: int) -> Json:
    if entity.choices:
        return {"enum": list(entity.choices)}
    return _SIMPLE.get(entity.kind) or _text(max_text)


def _text(max_text: int) -> Json:
    return {"type": "string", "minLength": 1, "maxLength": max_text}
