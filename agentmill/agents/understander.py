"""The Understander: state, last reply and utterance -> intent, entities, confirmation, or a question back.

Its output is checked against the domain: the intent and entities exist, values have the right kind and choice, numbers
fit into a world, texts are one line, and verbatim values stand in the customer's words. Whether a question is due
follows from the state, so that part is completed here and not left to the model: a needed entity is always asked for,
and nothing else is.
"""

import re

from pydantic import ValidationError

from agentmill.agents.asking import Invalid, ModelAgent
from agentmill.agents.contracts import UnderstanderResult, UnderstanderTask
from agentmill.agents.frames import fold, render_frame
from agentmill.agents.schemas import understanding_schema
from agentmill.agents.state import DialogueState, Understanding
from agentmill.domains.base import Domain, Entity, Json
from agentmill.plans.parse import unfenced

TAIL_CHARACTERS = 120
MAX_NUMBER = 10**12  # no larger one is meant, and every database takes it
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_THOUSANDS = re.compile(r"(?<=\d)[,  ’'](?=\d{3}(?!\d))")


class Understander(ModelAgent):
    """See the module."""

    name = "understander"

    async def run(self, task: UnderstanderTask) -> UnderstanderResult:
        """Understand one utterance; `understanding` is None when the model gave nothing valid."""
        structure = self._structure(task) if self.settings.structured.understander else None
        asked = await self.ask(
            self.frame(task), lambda text: self._validate(text, task), task.seed, structure=structure,
            switches=task.state.switches,
        )  # fmt: skip
        return UnderstanderResult(understanding=asked.value, calls=asked.calls)

    def frame(self, task: UnderstanderTask) -> str:
        """The user message."""
        fields = self.state_fields(task.state)
        if task.state.proposed:
            fields["proposed"] = True
        memory = task.state.remembered()
        if memory:
            fields["memory"] = memory
        fields["assistant"] = reply_tail(task.assistant)
        fields["customer"] = task.utterance
        return render_frame(fields)

    def _structure(self, task: UnderstanderTask) -> Json:
        most = self.settings.structured.max_text
        return {"response_schema": understanding_schema(self.domain, proposed=task.state.proposed, max_text=most)}

    def _validate(self, text: str, task: UnderstanderTask) -> Understanding:
        try:
            heard = Understanding.model_validate_json(unfenced(text))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise Invalid(f"no understanding: {'.'.join(map(str, problem['loc']))} {problem['msg']}") from error
        for name in heard.requests:
            if name not in self.domain.intents:
                raise Invalid(f"intent={name!r} is unknown")
        for name, value in heard.entities.items():
            if name not in self.domain.entities:
                raise Invalid(f"entity {name!r} is unknown")
            heard.entities[name] = fold(value) if isinstance(value, str) else value
            _require_value(self.domain.entities[name], heard.entities[name], task)
        heard = _with_plans(heard, self.domain)
        return heard.model_copy(update={"question": due_question(self.domain, task.state, heard)})


def due_question(domain: Domain, state: DialogueState, heard: Understanding) -> str | None:
    """The question that must be asked after `heard`: the model's own words if it asks, the domain's if it does not.

    The domain's question about another entity than the missing one is corrected.
    """
    domain = domain.under(state.switches)
    missing = domain.missing(heard.requests, state.updated(heard, domain).entities)
    if missing is None:
        return None
    asked = fold(heard.question or "")
    if not asked or asked in {entity.question for entity in domain.entities.values()}:
        return domain.entities[missing].question
    return asked


def reply_tail(reply: str, limit: int = TAIL_CHARACTERS) -> str:
    """The last sentences of a reply that fit into `limit` characters, "none" where there is no reply.

    Of a last sentence that is too long on its own, the last words that fit.
    """
    tail = ""
    for sentence in reversed(_SENTENCE.split(fold(reply))):
        longer = f"{sentence} {tail}".strip()
        if len(longer) > limit:
            return tail or longer[-limit:].partition(" ")[2] or longer[-limit:]
        tail = longer
    return tail or "none"


def occurs(value: object, utterance: str) -> bool:
    """Whether `value` stands in the utterance as words of its own, whatever the case and thousands separators."""
    wanted, said = _plain(str(value)), _plain(utterance)
    return bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", said) is not None


def _plain(text: str) -> str:
    return _THOUSANDS.sub("", fold(text)).casefold()


def _with_plans(heard: Understanding, domain: Domain) -> Understanding:
    """The understanding with each request once; of several, those that need no plan (a greeting) are left out."""
    requests = tuple(dict.fromkeys(heard.requests))
    planned = tuple(name for name in requests if domain.intents[name].tools) or requests[:1]
    return heard.model_copy(update={"intent": planned[0], "also": planned[1:]})


def _require_value(entity: Entity, value: object, task: UnderstanderTask) -> None:
    if type(value) is not entity.kind:
        raise Invalid(f"{entity.name}={value!r} is no {entity.kind.__name__}")
    if value == "" or (isinstance(value, int | float) and not -MAX_NUMBER <= value <= MAX_NUMBER):
        raise Invalid(f"{entity.name}={str(value)[:40]!r} is no value to work with")
    if entity.choices and value not in entity.choices:
        raise Invalid(f"{entity.name}={value!r} is none of {', '.join(entity.choices)}")
    memory = (*task.state.memory.get(entity.like or entity.name, ()), task.state.entities.get(entity.name))
    if entity.verbatim and value not in memory and not occurs(value, task.utterance):
        raise Invalid(f"{entity.name}={value!r} is not in the customer's words")
