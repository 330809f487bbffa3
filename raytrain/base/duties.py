"""The four jobs of the agents over errands: what the fuller frames hold, and the dozen words of a venue do not.

Beside `tasks` this has several requests in one utterance (`also`), what one request supplies to another, the memory of
a conversation with references to it ("the second one", "the same day"), notices of changes in the business (a tool has
another name, or needs one more argument), and plans that are needless or incomplete.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from agentmill.agents.frames import render_frame
from agentmill.agents.understander import reply_tail
from raytrain.base.errands import Errand, errands, fields_of, joined, missing, supplied_to
from raytrain.base.fields import FIELDS, REFERS, SHARED, bare, clause, draw
from raytrain.base.plans import outcome, write_plan
from raytrain.base.speech import NO, YES, Entities, dress
from raytrain.base.venues import Venue, system_text
from raytrain.base.words import DAYS, word

Sample = tuple[str, str, str]

_AND = (" And then ", " And ", " Also, ", " Then ", " And please ", ". After that ", " Also ", ", and ")
_ORDINALS = {"first": 0, "second": 1, "third": 2, "last": -1}
_THE_DAY = ("the same day", "that day", "that same day", "on the same day", "the day you named")
_HEARD_WRONG = ("That is not right, I said ", "No, I meant ", "Sorry, I meant ", "No, ", "Rather ", "Make it ")
_FAULTS = {
    "CONFIRM_FIRST": "the customer has not agreed to this change yet",
    "GROUNDED_ARGUMENT": "an argument differs from what the customer said",
    "NEEDLESS_CALL": "The plan makes a call that nobody asked for.",
    "INCOMPLETE_PLAN": "The plan leaves out something that the customer asked for.",
}


def compact(value: Any) -> str:
    """JSON as the agents write it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass
class Business:
    """What has changed since the conversation began: notices, tools under new names, tools that need an argument."""

    notices: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    needs: dict[str, str] = field(default_factory=dict)

    def of(self, errand: Errand) -> Errand:
        """The errand with the fields that it needs now."""
        more = tuple(self.needs[step.tool] for step in errand.steps if step.tool in self.needs)
        return replace(errand, required=(*errand.required, *(name for name in more if name not in errand.required)))


def _business(rng: Random, asked: Sequence[Errand], asking: bool) -> Business:
    """Mostly the business as it always was. With `asking` only those changes that need more of the customer."""
    business = Business()
    if rng.random() < 0.8:
        return business
    waiting = [step for errand in asked for step in errand.steps if step.waits]
    if waiting and rng.random() < 0.5:
        step = waiting[-1]
        name = rng.choice([n for n in ("phone", "member", "mark", "town") if n not in step.arguments])
        business.needs[step.tool] = name
        business.notices.append(f"{step.tool} needs one more argument: {name}, the customer's {name}.")
    elif not asking:
        tools = [step.tool for errand in asked for step in errand.steps]
        if rng.random() < 0.3:
            tools = [step.tool for step in rng.choice(errands()).steps]
        old, new = rng.choice(tools), f"{word(rng)}_{rng.choice((word(rng), 'lookup', 'entry', 'request'))}"
        business.renamed[old] = new
        business.notices.append(f"The tool {old} is called {new} from now on.")
    if not asking and rng.random() < 0.2:
        business.notices.append(f"On {rng.choice(DAYS)} we are closed from now on.")
    return business


def _memory(rng: Random, state: Entities) -> dict[str, list[Any]]:
    """What the conversation remembers beyond its state: the items and the day last told."""
    memory: dict[str, list[Any]] = {}
    if rng.random() < 0.45:
        memory["item"] = [draw(rng, FIELDS["item"]) for _ in range(rng.choice((1, 2, 2, 3, 3)))]
        if "item" in state and rng.random() < 0.5:
            memory["item"][rng.randrange(len(memory["item"]))] = state["item"]
    if rng.random() < 0.3:
        memory["day"] = [rng.choice(DAYS)]
    return {name: values for name, values in memory.items() if values != [state.get(name)]}


def _refer(rng: Random, name: str, values: list[Any]) -> tuple[str, Any]:
    """Words for one of the remembered values, and the value."""
    if name == "day":
        return rng.choice(_THE_DAY), values[0]
    fits = [ordinal for ordinal, index in _ORDINALS.items() if index < len(values)]
    if len(values) == 1:
        return rng.choice(("this one", "that one", "it", "that item")), values[0]
    ordinal = rng.choice(fits)
    return f"the {ordinal} {rng.choice(('one', 'item', 'one'))}", values[_ORDINALS[ordinal]]


def _known(rng: Random, asked: Sequence[Errand], share: float) -> Entities:
    """Values for what the errands need (but for what they supply to each other) and a share of the rest."""
    given = {name for errand in asked for name in errand.required if name not in supplied_to(errand, asked)}
    known = {n: draw(rng, FIELDS[n]) for n in fields_of(asked) if n in given or rng.random() < 0.5}
    if share < 1.0:
        known = {name: value for name, value in known.items() if rng.random() < share}
    elif missing(asked, known) is not None:
        wanted = missing(asked, known)
        known = {n: known.get(n) or draw(rng, FIELDS[n]) for n in fields_of(asked) if n in known or n == wanted}
    return known


def _said(rng: Random, errand: Errand, heard: Entities, memory: dict[str, list[Any]]) -> str:
    """One request with what it names, `heard` extended by what it refers to."""
    parts = [clause(rng, FIELDS[name], value) for name, value in heard.items()]
    for name in REFERS:
        if name in memory and name in errand.fields and name not in heard and rng.random() < 0.5:
            words, heard[name] = _refer(rng, name, memory[name])
            parts.append(words)
    rng.shuffle(parts)
    text = rng.choice(errand.openers)
    return text + rng.choice((" ", ", ", " ")) + rng.choice((", ", " ", " and ", ", ")).join(parts) if parts else text


def _opened(
    rng: Random, asked: Sequence[Errand], memory: dict[str, list[Any]], state: Entities | None = None
) -> tuple[str, Entities]:
    """A customer opens all requests, with the values of `state` where it is given: the utterance, what it names."""
    heard: Entities = {}
    texts = []
    for errand in asked:
        share = rng.choice((0.0, 0.4, 0.8, 1.0))
        named = {n: draw(rng, FIELDS[n]) for n in errand.fields if n not in heard and rng.random() < share}
        if state is not None:
            named = {n: state[n] for n in named if n in state}
        if errand is not asked[0]:
            named = {n: v for n, v in named.items() if n not in supplied_to(errand, asked)}
        taken = {n: values for n, values in memory.items() if n not in heard and n not in supplied_to(errand, asked)}
        texts.append(_said(rng, errand, named, taken))
        heard |= named
    text = dress(rng, texts[0])
    for more in texts[1:]:
        link = rng.choice(_AND)
        text = text.rstrip(".?! ") + (rng.choice((".", "?")) if link[:2] in (" A", " T") else "") + link + more
    return text, heard


def _request(rng: Random) -> list[Errand]:
    first = rng.choice(errands())
    return joined(rng, first) if rng.random() < 0.22 else [first]


def _frame(asked: Sequence[Errand], entities: Entities, business: Business, confirmed: bool = False) -> dict[str, Any]:
    frame: dict[str, Any] = {"intent": asked[0].intent if asked else "none"}
    if len(asked) > 1:
        frame["also"] = ", ".join(errand.intent for errand in asked[1:])
    frame |= {name: entities[name] for name in fields_of(asked) if name in entities}
    if confirmed:
        frame["confirmed"] = True
    return frame | ({"changes": business.notices} if business.notices else {})


def understand(rng: Random, v: Venue) -> Sample:
    """Hear an utterance in its context: requests, entities, agreement, a question back."""
    act = rng.choices(("open", "answer", "agree", "correct"), (44, 34, 12, 10))[0]
    asked = _request(rng)
    business = _business(rng, asked, asking=True)
    asked = [business.of(errand) for errand in asked]
    confirmed = proposed = False
    if act == "open":
        before = _request(rng) if rng.random() < 0.6 else []
        state, tail = _known(rng, before, 1.0), "none"
        memory = _memory(rng, state) if before else {}
        if before:
            tail = rng.choice((_told(rng, before, state), "Anything else that I can do for you?"))
        utterance, heard = _opened(rng, asked, memory)
    else:
        before = asked
        state = _known(rng, asked, rng.choice((0.0, 0.5, 0.8)) if act == "answer" else 1.0)
        memory = _memory(rng, state)
        wanted = missing(asked, state)
        if act == "answer" and wanted is not None:
            tail, (utterance, heard) = FIELDS[wanted].question, _answered(rng, asked, state, wanted)
        else:
            proposed = any(errand.changes for errand in asked)
            tail, heard = _told(rng, asked, state), {}
            confirmed = proposed and act == "agree" and rng.random() < 0.7
            utterance = rng.choice(YES if confirmed else NO) + rng.choice(("", ".", "!"))
            if act != "agree" or not proposed:
                utterance, heard = _corrected(rng, asked)
    kept = state if before is asked else {n: x for n, x in state.items() if n in SHARED}
    wanted = None if proposed else missing(asked, {**kept, **heard})
    output: dict[str, Any] = {"intent": asked[0].intent}
    if len(asked) > 1:
        output["also"] = [errand.intent for errand in asked[1:]]
    output |= {"entities": {n: heard[n] for n in fields_of(asked) if n in heard}, "confirmed": confirmed}
    output["question"] = None if wanted is None else FIELDS[wanted].question
    frame = _frame(before, state, business)
    frame |= ({"proposed": True} if proposed else {}) | ({"memory": memory} if memory else {})
    frame |= {"assistant": reply_tail(tail), "customer": utterance}
    return system_text("understander", v), render_frame(frame), compact(output)


def _answered(rng: Random, asked: Sequence[Errand], state: Entities, wanted: str) -> tuple[str, Entities]:
    open_ = [n for n in fields_of(asked) if n not in state and n != wanted and rng.random() < 0.2]
    heard = {n: draw(rng, FIELDS[n]) for n in (wanted, *open_)}
    if len(heard) == 1 and rng.random() < 0.5:
        text = bare(rng, FIELDS[wanted], heard[wanted])
    else:
        text = rng.choice((", ", " and ", " ")).join(clause(rng, FIELDS[n], x) for n, x in heard.items())
    return (dress(rng, text) if rng.random() < 0.6 else text), heard


def _corrected(rng: Random, asked: Sequence[Errand]) -> tuple[str, Entities]:
    name = rng.choice(fields_of(asked))
    heard = {name: draw(rng, FIELDS[name])}
    return rng.choice(_HEARD_WRONG) + clause(rng, FIELDS[name], heard[name]) + rng.choice((".", "")), heard


def _told(rng: Random, asked: Sequence[Errand], state: Entities) -> str:
    return _results(rng, asked, state, False)[1]


def _results(rng: Random, asked: Sequence[Errand], entities: Entities, confirmed: bool) -> tuple[dict[str, Any], str]:
    """What all tools return, and the reply to all requests; one supplies to the next only where it did not fail."""
    results: dict[str, Any] = {}
    replies, known = [], dict(entities)
    for errand in asked:
        found, reply = outcome(rng, errand, known, confirmed, sure=len(asked) > 1)
        results |= found
        replies.append(reply)
        for name, source in errand.supplies.items():
            variable, *keys = source.split(".")
            value = results[variable]
            value = value[0] if isinstance(value, list) and value else value
            if value and keys[-1] in value and len(asked) > 1:
                known[name] = value[keys[-1]]
    return results, " ".join(replies)


def _situation(rng: Random) -> tuple[list[Errand], Entities, bool, Business]:
    asked = _request(rng)
    business = _business(rng, asked, asking=False)
    asked = [business.of(errand) for errand in asked]
    confirmed = any(errand.changes for errand in asked) and rng.random() < 0.5
    return asked, _known(rng, asked, 1.0), confirmed, business


def _faulty(rng: Random, asked: list[Errand], e: Entities, confirmed: bool, business: Business) -> tuple[str, str]:
    """A plan with a fault, and the fault's code."""
    right = write_plan(asked, e, confirmed, business.renamed, business.needs)
    kinds = ["NEEDLESS_CALL"] + ["GROUNDED_ARGUMENT"] * bool(e)
    kinds += ["CONFIRM_FIRST"] * (any(errand.changes for errand in asked) and not confirmed)
    kinds += ["INCOMPLETE_PLAN"] * (2 if len(asked) > 1 else 0)
    kind = rng.choice(kinds)
    if kind == "NEEDLESS_CALL":
        calls = [line.partition(" = ")[2] for line in right.split("\n") if " = " in line and not line.startswith(" ")]
        return f"{right}\nextra = {rng.choice(calls)}", kind
    if kind == "INCOMPLETE_PLAN":
        return write_plan([errand for errand in asked if errand is not rng.choice(asked[1:])], e, confirmed), kind
    if kind == "CONFIRM_FIRST":
        return write_plan(asked, e, True, business.renamed, business.needs), kind
    wrong = rng.choice(list(e))
    return write_plan(asked, {**e, wrong: draw(rng, FIELDS[wrong])}, confirmed, business.renamed, business.needs), kind


def plan(rng: Random, v: Venue) -> Sample:
    """Write the plan for a state, now and then after a refused one."""
    asked, entities, confirmed, business = _situation(rng)
    frame, block = _frame(asked, entities, business, confirmed), None
    if rng.random() < 0.12:
        refused, kind = _faulty(rng, asked, entities, confirmed, business)
        frame["violation"] = f"{kind}: {_FAULTS[kind]}"
        block = ("plan", refused)
    text = write_plan(asked, entities, confirmed, business.renamed, business.needs)
    return system_text("planner", v), render_frame(frame, block=block), text


def evaluate(rng: Random, v: Venue) -> Sample:
    """Judge a plan against the state; an earlier violation may stand beside it."""
    asked, entities, confirmed, business = _situation(rng)
    right = write_plan(asked, entities, confirmed, business.renamed, business.needs)
    text, kind = _faulty(rng, asked, entities, confirmed, business) if rng.random() < 0.5 else (right, "")
    found = [kind] if text != right else []
    frame = _frame(asked, entities, business, confirmed)
    if rng.random() < 0.15:
        earlier = rng.choice(sorted(_FAULTS))
        frame["violation"] = f"{earlier}: {_FAULTS[earlier]}"
    verdict = compact({"ok": not found, "violations": found})
    return system_text("evaluator", v), render_frame(frame, block=("plan", text)), verdict


def explain(rng: Random, v: Venue) -> Sample:
    """Say what the tools returned, and nothing else."""
    asked, entities, confirmed, _ = _situation(rng)
    results, reply = _results(rng, asked, entities, confirmed)
    utterance = rng.choice(YES) if confirmed else _opened(rng, asked, {}, entities)[0]
    frame = {**_frame(asked, entities, Business(), confirmed), "customer": utterance, "results": results}
    return system_text("explainer", v), render_frame(frame), reply
