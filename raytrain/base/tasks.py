"""Practice for the base: the four jobs of the agents in twelve made-up venues, and general work on text.

`sample(rng)` returns (system, user, completion). The frames are those of `agentmill.agents.frames`, so that the
pipeline's fine-tuning has a domain to teach and no longer a format. Nothing here comes from a domain pack.
"""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from agentmill.agents.frames import render_frame
from agentmill.agents.understander import reply_tail
from raytrain.base import duties
from raytrain.base.duties import compact
from raytrain.base.replies import tellers
from raytrain.base.speech import NO, YES, Entities, answer, correct, draw, repeat, request, slots_of
from raytrain.base.venues import Venue, system_text, venues
from raytrain.base.words import DAYS, amount, clock, code, hour, made_up, person, product, word

Sample = tuple[str, str, str]


def _filled(rng: Random, v: Venue, names: tuple[str, ...], share: float) -> Entities:
    return {n: draw(rng, v, n) for n in names if rng.random() < share}


def _answered(rng: Random, v: Venue, intent: str) -> tuple[Entities, str]:
    """A state in which everything for `intent` is known, and what the Explainer said to it."""
    slots = slots_of(v)[intent]
    state = _filled(rng, v, slots.required, 1.0) | _filled(rng, v, slots.optional, 0.5)
    return state, tellers(v)[intent](rng, v, state, rng.random() < 0.5)[1]


_SORRY = (
    "I am sorry, I did not get that. Could you say it again?",
    "Sorry, could you put that another way?",
    "I did not understand. Please say it in other words.",
)


def _question(v: Venue, intent: str, entities: Entities) -> str | None:
    if intent == v.find[0]:
        return None if entities else v.asks[v.first_choice]
    missing = [s for s in slots_of(v)[intent].required if s not in entities]
    return v.asks[missing[0]] if missing else None


def understand(rng: Random, v: Venue) -> Sample:
    """Hear an utterance in its context: intent, entities, agreement, a question back."""
    slots = slots_of(v)
    intents = [i for i in slots if i not in (v.chat, v.other)]
    act = rng.choices(("open", "answer", "agree", "aside", "repeat", "correct"), (36, 34, 10, 8, 6, 6))[0]
    before = rng.choice(intents) if act != "open" or rng.random() < 0.6 else "none"
    state: Entities = {}
    confirmed, tail, proposed = False, "none", False
    if act == "answer":
        before = rng.choice([i for i in intents if slots[i].required] + [v.book[0], v.appraise[0]])
        required = slots[before].required
        state = _filled(rng, v, required[: rng.randint(0, len(required) - 1)], 0.9)
        missing = [s for s in required if s not in state]
        tail = v.asks[missing[0]]
        utterance, heard = answer(rng, v, missing[0], missing)
        intent = before
    elif act == "agree":
        intent = before = rng.choice((v.book[0], v.cancel[0]))
        state = _filled(rng, v, slots[intent].required, 1.0)
        proposed, heard = True, {}
        tail = _proposal(v, intent, state)
        confirmed = rng.random() < 0.7
        utterance = rng.choice(YES if confirmed else NO) + rng.choice(("", ".", "!"))
        if not confirmed and rng.random() < 0.5:
            changed = rng.choice([s for s in slots[intent].required if s not in (v.person, v.card)])
            utterance, heard = answer(rng, v, changed, [])
            utterance = rng.choice(("No, ", "rather ", "Make it ", "Actually ", "Better ")) + utterance
    elif act == "repeat":
        intent = before = rng.choice(intents)
        state, tail = _filled(rng, v, slots[before].all, 0.4), rng.choice(_SORRY)
        utterance, heard = repeat(rng, v, intent)
    elif act == "correct":
        intent = before = rng.choice((v.find[0], v.hours[0], v.appraise[0], v.details[0]))
        state, tail = _answered(rng, v, intent)
        utterance, heard = correct(rng, v, rng.choice(slots[intent].all))
    else:
        if before != "none":
            state, told = _answered(rng, v, before)
            tail = rng.choice((told, told, told, "Anything else I can do for you?", rng.choice(_SORRY)))
        intent = rng.choice(intents if act == "open" else (v.chat, v.other))
        utterance, heard = request(rng, v, intent)
    known = state if intent == before else {k: x for k, x in state.items() if k in (v.code, v.person, v.card)}
    merged = {**known, **heard}
    ordered = {s: heard[s] for s in slots[intent].all if s in heard}
    question = None if proposed else _question(v, intent, merged)
    frame: dict[str, Any] = {"intent": before, **state}
    if proposed:
        frame["proposed"] = True
    frame |= {"assistant": reply_tail(tail), "customer": utterance}
    output = {"intent": intent, "entities": ordered, "confirmed": confirmed, "question": question}
    return system_text("understander", v), render_frame(frame), compact(output)


def _proposal(v: Venue, intent: str, e: Entities) -> str:
    if intent == v.book[0]:
        return f"Shall I {intent.split('_')[0]} it for {e.get(v.person, 'you')}?"
    if intent == v.cancel[0]:
        return "Shall I cancel it?"
    return "Anything else I can do for you?"


def _call(tool: str, arguments: Entities) -> str:
    return f"{tool}({', '.join(f'{k}={json.dumps(x, ensure_ascii=False)}' for k, x in arguments.items())})"


def write_plan(v: Venue, intent: str, e: Entities, confirmed: bool, skip: str = "") -> str:
    """The plan of `intent` over the entities; `skip` leaves a check out, as a careless planner would."""
    when = {k: e[k] for k in (v.code, "day", "time") if k in e}
    who = {k: e[k] for k in (v.person, v.card) if k in e}
    if intent == v.book[0]:
        check = f"{v.check[1]} = {_call(v.check[0], when)}"
        if not confirmed:
            return check
        verify = f"{v.verify[1]} = {_call(v.verify[0], who)}"
        book = f"{v.book[2]} = {_call(v.book[1], {**when, **who})}"
        tests = [f'{v.check[1]}["free"]'] * (skip != "check") + [f'{v.verify[1]}["verified"]'] * (skip != "verify")
        lines = [check] * (skip != "check") + [verify] * (skip != "verify")
        return "\n".join([*lines, f"if {' and '.join(tests)}:", f"    {book}"])
    if intent == v.cancel[0]:
        look = f"{v.lookup[1]} = {_call(v.lookup[0], e)}"
        if not confirmed:
            return look
        cancel = f"{v.cancel[2]} = {_call(v.cancel[1], e)}"
        return f'{look}\nif {v.lookup[1]}["found"]:\n    {cancel}' if skip != "check" else cancel
    _, tool, variable = {v.find[0]: v.find, v.details[0]: v.details, v.hours[0]: v.hours, v.appraise[0]: v.appraise}[
        intent
    ]
    return f"{variable} = {_call(tool, e)}"


_FAULTS = {
    "CONFIRM_FIRST": "the customer has not agreed to this change yet",
    "VERIFY_FIRST": "the identity must be verified before booking",
    "SLOT_CHECK": "check that it is free before booking",
    "GROUNDED_ARGUMENT": "an argument differs from what the customer said",
}


def _faulty(rng: Random, v: Venue, intent: str, e: Entities, confirmed: bool) -> tuple[str, str]:
    changes = intent in (v.book[0], v.cancel[0])
    kinds = ["GROUNDED_ARGUMENT"] * bool(e) + ["CONFIRM_FIRST"] * (changes and not confirmed)
    kinds += ["VERIFY_FIRST", "SLOT_CHECK"] * (intent == v.book[0] and confirmed)
    kind = rng.choice(kinds)
    if kind == "GROUNDED_ARGUMENT":
        wrong = rng.choice(list(e))
        return write_plan(v, intent, {**e, wrong: draw(rng, v, wrong)}, confirmed), kind
    if kind == "CONFIRM_FIRST":
        return write_plan(v, intent, e, True), kind
    return write_plan(v, intent, e, confirmed, "verify" if kind == "VERIFY_FIRST" else "check"), kind


def _task(rng: Random, v: Venue) -> tuple[str, Entities, bool, dict[str, Any]]:
    intents = [v.find[0], v.details[0], v.book[0], v.book[0], v.cancel[0], v.hours[0], v.appraise[0]]
    intent = rng.choice(intents)
    slots = slots_of(v)[intent]
    entities = _filled(rng, v, slots.required, 1.0) | _filled(rng, v, slots.optional, 0.5)
    if not entities:
        entities = {v.first_choice: draw(rng, v, v.first_choice)}
    confirmed = intent in (v.book[0], v.cancel[0]) and rng.random() < 0.5
    frame: dict[str, Any] = {"intent": intent, **entities}
    if confirmed:
        frame["confirmed"] = True
    return intent, entities, confirmed, frame


def plan(rng: Random, v: Venue) -> Sample:
    """Write the plan for a state, now and then after a refused one."""
    intent, entities, confirmed, frame = _task(rng, v)
    block = None
    if rng.random() < 0.15:
        refused, kind = _faulty(rng, v, intent, entities, confirmed)
        frame["violation"] = f"{kind}: {_FAULTS[kind]}"
        block = ("plan", refused)
    return (
        system_text("planner", v),
        render_frame(frame, block=block),
        write_plan(v, intent, entities, confirmed),
    )


def evaluate(rng: Random, v: Venue) -> Sample:
    """Judge a plan against the state."""
    intent, entities, confirmed, frame = _task(rng, v)
    code_text, found = write_plan(v, intent, entities, confirmed), []
    if rng.random() < 0.5:
        code_text, kind = _faulty(rng, v, intent, entities, confirmed)
        found = [kind]
        if code_text == write_plan(v, intent, entities, confirmed):
            found = []
    verdict = compact({"ok": not found, "violations": found})
    return system_text("evaluator", v), render_frame(frame, block=("plan", code_text)), verdict


def explain(rng: Random, v: Venue) -> Sample:
    """Say what the tools returned, and nothing else."""
    system = system_text("explainer", v)
    if rng.random() < 0.12:
        intent = rng.choice((v.chat, v.other))
        utterance, _ = request(rng, v, intent)
        text = (
            f"Hello from {v.title}. I can find, book and value {v.items}."
            if intent == v.chat
            else f"I can only help with {v.items}."
        )
        return system, render_frame({"intent": intent, "customer": utterance}), text
    intent, entities, confirmed, frame = _task(rng, v)
    results, text = tellers(v)[intent](rng, v, entities, confirmed)
    utterance = rng.choice(YES) if confirmed else request(rng, v, intent)[0]
    return system, render_frame({**frame, "customer": utterance, "results": results}), text


def _record(rng: Random) -> dict[str, Any]:
    makers: dict[str, Callable[[Random], Any]] = {
        "name": person, "town": made_up, "product": product, "code": code, "amount": amount,
        "day": lambda r: r.choice(DAYS), "time": lambda r: clock(hour(r)), "count": lambda r: r.randint(1, 99),
    }  # fmt: skip
    return {k: makers[k](rng) for k in rng.sample(list(makers), rng.randint(2, 5))}


_SAID = {
    "name": ("{} wrote to us", "the customer is {}"), "town": ("from {}", "it happened in {}"),
    "product": ("about the {}", "they want a {}"), "code": ("the code is {}", "under {}"),
    "amount": ("it costs {}", "the price is {}"), "day": ("on {}", "it was a {}"), "time": ("at {}", "around {}"),
    "count": ("{} pieces", "they need {}"),
}  # fmt: skip


def extract(rng: Random, v: Venue) -> Sample:
    """A sentence to JSON with the keys asked for, or JSON to a sentence."""
    record = _record(rng)
    spoken = list(record.items())
    rng.shuffle(spoken)
    text = ", ".join(rng.choice(_SAID[k]).format(x) for k, x in spoken)
    keys = rng.sample(list(record), rng.randint(1, len(record)))
    if rng.random() < 0.3:
        tidy = ", ".join(_SAID[k][0].format(x) for k, x in record.items())
        return "Write the record as text.", render_frame({"record": record}), tidy
    return (
        "Extract to JSON.",
        render_frame({"keys": ", ".join(keys), "text": text}),
        compact({k: record[k] for k in keys}),
    )


def look_up(rng: Random, v: Venue) -> Sample:
    """A question about one row of a small table."""
    field, make = rng.choice((("price", amount), ("code", code), ("owner", person), ("town", made_up)))
    rows = [{"item": product(rng), field: make(rng)} for _ in range(rng.randint(2, 6))]
    row = rng.choice(rows)
    return (
        "Answer from the rows.",
        render_frame({"rows": rows, "question": f"What is the {field} of {row['item']}?"}),
        str(row[field]),
    )


def fill(rng: Random, v: Venue) -> Sample:
    """A call whose arguments are the values of some of the keys, in the order of the call."""
    values: tuple[Callable[[Random], Any], ...] = (word, word, made_up, person, code, amount, product)
    record = {word(rng): rng.choice(values)(rng) for _ in range(rng.randint(2, 6))}
    names = rng.sample(list(record), rng.randint(1, len(record)))
    tool = f"{word(rng)}_{word(rng)}"
    frame = {**record, "call": f"{tool}({', '.join(names)})"}
    return "Fill the call.", render_frame(frame), _call(tool, {n: record[n] for n in names})


def render_text(rng: Random, v: Venue) -> Sample:
    """A text with the values of the keys in its braces."""
    record = {**_record(rng), word(rng): word(rng), word(rng): made_up(rng)}
    glue = ("is", "and", "for", "with", "on", "the", "at", "is a", ",", ";", "Your", "Done,", "from", "to")
    parts = [f"{{{k}}} {rng.choice(glue)}" for k in rng.sample(list(record), rng.randint(1, 4))]
    text = " ".join([rng.choice(glue), *parts, "."]) if rng.random() < 0.7 else " ".join(parts)
    filled = text.format(**record)
    return "Fill the text.", render_frame({"record": record, "text": text}), filled


_MIX: tuple[tuple[Callable[[Random, Venue], Sample], int], ...] = (
    (understand, 17), (plan, 8), (evaluate, 3), (explain, 14), (extract, 3), (look_up, 3), (fill, 4), (render_text, 4),
    (duties.understand, 18), (duties.plan, 10), (duties.evaluate, 4), (duties.explain, 12),
)  # fmt: skip


def sample(rng: Random) -> Sample:
    """One practice example: (system, user, completion)."""
    kind = rng.choices([k for k, _ in _MIX], [w for _, w in _MIX])[0]
    return kind(rng, rng.choice(venues()))
