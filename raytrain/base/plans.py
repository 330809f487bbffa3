"""Plans of errands, what their tools return, and what is said of it.

Without the customer's word a plan ends before the first step that waits for it. A result that does not hold ends what
depends on it, and the reply says so.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Any

from raytrain.base.errands import FIRST, Errand, Step, supplied_to
from raytrain.base.fields import FIELDS, draw_kind, told
from raytrain.base.speech import Entities


def _read(source: str) -> str:
    """A result as a plan reads it: `rows.0.item` -> `rows[0]["item"]`."""
    variable, *keys = source.split(".")
    return variable + "".join(f"[{key}]" if key == FIRST else f'["{key}"]' for key in keys)


def _call(step: Step, tool: str, entities: Entities, supplied: Mapping[str, str], extra: Collection[str]) -> str:
    said: dict[str, str] = {}
    for name, source in (step.arguments | {name: name for name in extra}).items():
        if "." in source:
            said[name] = _read(source)
        elif source in entities:
            said[name] = json.dumps(entities[source], ensure_ascii=False)
        elif source in supplied:
            said[name] = _read(supplied[source])
    return f"{tool}({', '.join(f'{name}={text}' for name, text in said.items())})"


def taken(errand: Errand, confirmed: bool) -> list[Step]:
    """The steps of its plan: without the customer's word none that waits for it."""
    return [step for step in errand.steps if confirmed or not step.waits]


def write_plan(
    asked: Sequence[Errand],
    entities: Entities,
    confirmed: bool,
    renamed: Mapping[str, str] | None = None,
    needs: Mapping[str, str] | None = None,
) -> str:
    """The plan of all errands over the entities; tools may have been `renamed`, or need one more argument."""
    lines: list[str] = []
    for errand in asked:
        supplied, depth = supplied_to(errand, asked), 0
        for step in taken(errand, confirmed):
            if step.when:
                lines.append("    " * depth + f"if {' and '.join(map(_read, step.when))}:")
                depth += 1
            extra = [(needs or {})[step.tool]] if step.tool in (needs or {}) else []
            call = _call(step, (renamed or {}).get(step.tool, step.tool), entities, supplied, extra)
            lines.append("    " * depth + f"{step.variable} = {call}")
    return "\n".join(lines)


def _result(rng: Random, step: Step, holds: bool) -> Any:
    if step.rows:
        rows = [
            {k: draw_kind(rng, kind) for k, kind in step.returns.items()} for _ in range(rng.choice((1, 2, 2, 3, 3)))
        ]
        return rows if holds else []
    values = {key: kind == "yes" or draw_kind(rng, kind) for key, kind in step.returns.items()}
    return values if holds else {key: False for key, kind in step.returns.items() if kind == "yes"}


def _kinds(errand: Errand) -> dict[str, str]:
    return {name: FIELDS[name].kind for name in errand.fields} | {
        key: kind for step in errand.steps for key, kind in step.returns.items()
    }


def _fill(errand: Errand, text: str, values: Mapping[str, Any]) -> str:
    kinds = _kinds(errand)
    return text.format(**{name: told(kinds.get(name, "word"), value) for name, value in values.items()})


def _rows(errand: Errand, rows: list[dict[str, Any]]) -> str:
    said = [_fill(errand, errand.told, row) for row in rows]
    lead, glue, last = Random(errand.intent).choice((("I found ", "; ", "; "), ("We have ", ", ", " and "),
                                                     ("There is ", "; ", " or ")))  # fmt: skip
    return lead + (glue.join(said[:-1]) + last + said[-1] if len(said) > 1 else said[0]) + "."


def outcome(
    rng: Random, errand: Errand, entities: Entities, confirmed: bool, sure: bool = False
) -> tuple[dict[str, Any], str]:
    """What the tools return to its plan, by variable, and the reply; a `sure` one does not fail."""
    results: dict[str, Any] = {}
    known = dict(entities)
    for step in taken(errand, confirmed):
        can_fail = step.variable in errand.failed and (step.rows or "yes" in step.returns.values())
        holds = sure or not can_fail or rng.random() > 0.15
        results[step.variable] = _result(rng, step, holds)
        if not holds:
            return results, _fill(errand, errand.failed[step.variable], known)
        if step.rows:
            return results, _rows(errand, results[step.variable])
        known |= results[step.variable]
    waiting = errand.changes and not confirmed
    return results, _fill(errand, errand.proposed if waiting else errand.told, known)
