"""Practice for the base: the four jobs of the agents in twelve made-up venues, and general work on text.

`sample(rng)` returns (system, user, completion). The frames are those of `agentmill.agents.frames`, so that the
pipeline's fine-tuning has a domain to teach and no longer a format. Nothing here comes from a domain pack.
"""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from agentmill.agents.frames import render_frame
from raytrain.base.speech import NO, YES, Entities, answer, draw, repeat, request, slots_of
from raytrain.base.venues import Venue, venues
from raytrain.base.words import DAYS, amount, clock, code, hour, made_up, person, product, word

Sample = tuple[str, str, str]


def compact(value: Any) -> str:
    """JSON as the agents write it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _filled(rng: Random, v: Venue, names: tuple[str, ...], share: float) -> Entities:
    return {n: draw(rng, v, n) for n in names if rng.random() < share}


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
    act = rng.choices(("open", "answer", "agree", "aside", "repeat"), (38, 36, 10, 8, 8))[0]
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
    else:
        if before != "none":
            state = _filled(rng, v, slots[before].required, 1.0) | _filled(rng, v, slots[before].optional, 0.5)
            told = tellers(v)[before](rng, v, state, rng.random() < 0.5)[1]
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
    frame |= {"assistant": tail[-120:], "customer": utterance}
    output = {"intent": intent, "entities": ordered, "confirmed": confirmed, "question": question}
    return f"Understander of {v.title}. Reply with JSON.", render_frame(frame), compact(output)


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
        f"Planner of {v.title}. Reply with a plan.",
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
    return f"Evaluator of {v.title}. Reply with JSON.", render_frame(frame, block=("plan", code_text)), verdict


def _listing(rng: Random, v: Venue) -> list[dict[str, Any]]:
    return [
        {
            v.code: code(rng),
            "year": rng.randint(1995, 2025),
            v.brand: made_up(rng),
            v.product: product(rng),
            "price": amount(rng),
        }
        for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 3)))
    ]


def _explain_find(rng: Random, v: Venue, e: Entities, confirmed: bool) -> tuple[dict[str, Any], str]:
    rows = _listing(rng, v)
    if not rows:
        return {v.find[2]: rows}, f"I found no {v.items} that fit. Shall I look for something else?"
    said = [f"{r['year']} {r[v.brand]} {r[v.product]} ({r[v.code]}) for ${r['price']}" for r in rows]
    listing = said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]
    return {v.find[2]: rows}, f"I found {len(rows)} {v.item if len(rows) == 1 else v.items}: {listing}."


def _explain_details(rng: Random, v: Venue, e: Entities, confirmed: bool) -> tuple[dict[str, Any], str]:
    if rng.random() < 0.1:
        return {v.details[2]: {"found": False, v.code: e[v.code]}}, f"I have no {v.item} with the {v.code} {e[v.code]}."
    row = {
        "found": True,
        v.code: e[v.code],
        "year": rng.randint(1995, 2025),
        v.brand: made_up(rng),
        v.product: product(rng),
        v.first_choice: draw(rng, v, v.first_choice),
        v.second_choice: draw(rng, v, v.second_choice),
        "usage": amount(rng),
        "price": amount(rng),
    }
    text = (f"{row[v.code]} is a {row['year']} {row[v.brand]} {row[v.product]}, {row[v.first_choice]}, "
            f"{row[v.second_choice]}, used {row['usage']} hours, for ${row['price']}.")  # fmt: skip
    return {v.details[2]: row}, text


def _explain_book(rng: Random, v: Venue, e: Entities, confirmed: bool) -> tuple[dict[str, Any], str]:
    free, verb = rng.random() < 0.8, v.book[0].split("_")[0]
    when = f"on {e['day'].capitalize()} at {e['time']}"
    results: dict[str, Any] = {v.check[1]: {v.code: e[v.code], "day": e["day"], "time": e["time"], "free": free}}
    if not free:
        return results, f"{e[v.code]} is not free {when}. Would another time suit you?"
    if not confirmed:
        return results, f"{e[v.code]} is free {when}. Shall I {verb} it for {e[v.person]}?"
    if rng.random() < 0.15:
        results[v.verify[1]] = {"verified": False}
        return results, f"I could not verify the {v.card} {e[v.card]} of {e[v.person]}."
    ticket = code(rng, digits=5)
    results |= {v.verify[1]: {"verified": True}, v.book[2]: {v.reference: ticket}}
    return results, f"Done, {e[v.person]}: {e[v.code]} {when}. Your {v.reference} is {ticket}."


def _explain_cancel(rng: Random, v: Venue, e: Entities, confirmed: bool) -> tuple[dict[str, Any], str]:
    ticket = e[v.reference]
    if rng.random() < 0.15:
        return {v.lookup[1]: {"found": False}}, f"I cannot find {ticket}."
    row = {"found": True, v.code: code(rng), "day": rng.choice(DAYS), "time": clock(hour(rng))}
    if not confirmed:
        when = f"on {row['day'].capitalize()} at {row['time']}"
        return {v.lookup[1]: row}, f"{ticket} is for {row[v.code]} {when}. Shall I cancel it?"
    return {v.lookup[1]: row, v.cancel[2]: {"cancelled": True}}, f"{ticket} is cancelled."


def _explain_hours(rng: Random, v: Venue, e: Entities, confirmed: bool) -> tuple[dict[str, Any], str]:
    day = e["day"].capitalize()
    if rng.random() < 0.15:
        return {"hours": {"day": e["day"], "open": False}}, f"We are closed on {day}."
    opens, closes = clock(rng.randint(7, 10)), clock(rng.randint(16, 21))
    results = {"hours": {"day": e["day"], "opens": opens, "closes": closes}}
    return results, f"On {day} we are open from {opens} to {closes}."


def _explain_appraise(rng: Random, v: Venue, e: Entities, confirmed: bool) -> tuple[dict[str, Any], str]:
    low = amount(rng)
    high = low + amount(rng)
    what = f"{e['year']} {e[v.brand]} {e[v.product]} in {e['condition']} condition, used {e['usage']} hours,"
    text = f"Your {what} is worth between ${low} and ${high}."
    return {v.appraise[2]: {"low": low, "high": high}}, text


def tellers(v: Venue) -> dict[str, Callable[[Random, Venue, Entities, bool], tuple[dict[str, Any], str]]]:
    """For every intent that a plan serves: what its tools return, and the reply."""
    return {
        v.find[0]: _explain_find, v.details[0]: _explain_details, v.book[0]: _explain_book,
        v.cancel[0]: _explain_cancel, v.hours[0]: _explain_hours, v.appraise[0]: _explain_appraise,
    }  # fmt: skip


def explain(rng: Random, v: Venue) -> Sample:
    """Say what the tools returned, and nothing else."""
    system = f"Explainer of {v.title}. Reply to the customer."
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


_MIX: tuple[tuple[Callable[[Random, Venue], Sample], int], ...] = (
    (understand, 34), (plan, 20), (evaluate, 6), (explain, 22), (extract, 7), (look_up, 5), (fill, 6),
)  # fmt: skip


def sample(rng: Random) -> Sample:
    """One practice example: (system, user, completion)."""
    kind = rng.choices([k for k, _ in _MIX], [w for _, w in _MIX])[0]
    return kind(rng, rng.choice(venues()))
