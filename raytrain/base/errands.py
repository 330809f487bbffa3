"""Errands: what a customer of a made-up venue can want beyond its own dozen words, as tables drawn from a fixed seed.

An errand has an intent, fields and the steps of its plan. The shapes of plans are those that agents meet: one call,
rows to choose from, a call that takes what another returned, a change under one check or two, a move of something
booked. Every venue offers the same ones, so that they are learnt by heart once; what differs is how they are asked for,
combined and answered. Nothing here comes from a domain pack.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random

FIRST = "0"


@dataclass(frozen=True)
class Step:
    """One call of a plan: each of `arguments` names a field, or a result as `variable.key`.

    `returns` are the keys of the result with the kind of each value (see `fields`). `when` names the results that must
    hold: they open an `if` around this step and all that follows. A step that `waits` needs the customer's word.
    """

    tool: str
    variable: str
    arguments: dict[str, str]
    returns: dict[str, str]
    when: tuple[str, ...] = ()
    waits: bool = False
    rows: bool = False


@dataclass(frozen=True)
class Errand:
    """One intent: its fields, its plan, the ways to ask for it, and what is said of the outcome.

    `told` is said when everything held (of rows: of each), with fields and results in braces; `proposed` while a change
    waits for the customer's word; `failed` by variable when that step's result did not hold. `supplies` are fields that
    its results give to another request of the same utterance, as `variable.key`.
    """

    intent: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    steps: tuple[Step, ...]
    openers: tuple[str, ...]
    told: str
    proposed: str = ""
    failed: dict[str, str] = field(default_factory=dict)
    supplies: dict[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[str, ...]:
        return self.required + self.optional

    @property
    def changes(self) -> bool:
        return any(step.waits for step in self.steps)

    @property
    def variables(self) -> set[str]:
        return {step.variable for step in self.steps}


_NOUNS = (
    "lesson", "tour", "loan", "locker", "storage", "membership", "permit", "repair", "voucher", "guide", "insurance",
    "pickup", "seat", "refund", "exhibit", "upgrade", "survey", "sample", "catalogue", "visit", "warranty", "donation",
    "newsletter", "rehearsal",
)  # fmt: skip
_ASKED = ("item", "claim", "receipt", "parcel", "ticket", "serial", "town", "lot", "mark")
_GIVEN = ("maker", "size", "topic", "tier", "year", "state", "budget", "rebate", "guests", "points", "duration")
_WHO = (("name", "permit"), ("name", "phone"), ("owner", "mobile"), ("name",), ("name", "member"))
_FIND = ("list", "search", "browse", "look_for", "scan")
_READ = ("get", "read", "show", "fetch", "describe")
_CHECK = ("check", "test", "probe", "inspect")
_DO = ("book", "reserve", "place", "take", "schedule", "register", "add")
_MOVE = ("move", "shift", "change")
_DROP = ("cancel", "withdraw", "drop")
_VARIABLES = ("found", "entry", "row", "facts", "status", "reply", "answer", "sheet", "record", "info")
_RESULTS = ("price", "colour", "room", "weight", "minutes", "level", "code", "line", "district", "fee")
_KINDS = {"price": "money", "fee": "money", "minutes": "count", "weight": "count", "level": "count", "code": "ticket"}
_ASK = ("what about the {noun}", "tell me the {noun}", "I need the {noun}", "can you check the {noun}",
        "show me the {noun}", "any news on the {noun}", "how about the {noun}", "the {noun}", "I have a question, the "
        "{noun}", "please look up the {noun}")  # fmt: skip
_SHOW = ("I'm looking for a {noun}", "show me your {noun}s", "do you have a {noun}", "find me a {noun}",
         "what {noun}s are there", "I need a {noun}")  # fmt: skip
_WANT = ("I'd like to {verb} {noun}", "I want to {verb} {noun}", "can I {verb} {noun}", "{verb} {noun}",
         "I need to {verb} {noun}", "could you {verb} {noun}", "please {verb} {noun} for me",
         "is it possible to {verb} {noun}")  # fmt: skip
_PARTS = ("with {0} {1}", "{0} {1}", "its {0} is {1}", "the {0} {1}", "{1} as {0}")


def _results(rng: Random, count: int) -> dict[str, str]:
    """`count` keys of a result with the kind of each value."""
    return {key: _KINDS.get(key, "word") for key in rng.sample(_RESULTS, count)}


def _own(*names: str) -> dict[str, str]:
    """Arguments that are the fields of their own names."""
    return {name: name for name in names}


def _listed(rng: Random, keys: Collection[str]) -> str:
    return ", ".join(rng.choice(_PARTS).format(key, f"{{{key}}}") for key in rng.sample(list(keys), len(keys)))


def _asks(rng: Random, forms: tuple[str, ...], noun: str, verb: str = "") -> tuple[str, ...]:
    return tuple(form.format(noun=noun, verb=verb) for form in rng.sample(forms, 5))


def _look(rng: Random, noun: str) -> Errand:
    """One call, and what it returned."""
    asked, optional = rng.choice(_ASKED), tuple(rng.sample(_GIVEN, rng.choice((0, 0, 1, 2))))
    variable = rng.choice(_VARIABLES)
    supplied = {"day": "day"} if rng.random() < 0.6 else {}
    keys = {**_results(rng, rng.randint(1, 3)), **supplied}
    step = Step(f"{rng.choice(_READ)}_{noun}", variable, _own(asked, *optional), {"known": "yes", **keys})
    lead = rng.choice((f"The {noun} of {{{asked}}}:", f"{{{asked}}} has a {noun},", f"For {{{asked}}} I see"))
    return Errand(
        intent=f"{rng.choice(_CHECK)}_{noun}",
        required=(asked,),
        optional=optional,
        steps=(step,),
        openers=_asks(rng, _ASK, noun),
        told=f"{lead} {_listed(rng, keys)}.",
        failed={variable: rng.choice((f"I cannot find {{{asked}}}.", f"There is no {noun} for {{{asked}}}."))},
        supplies={name: f"{variable}.{name}" for name in supplied},
    )


def _list(rng: Random, noun: str) -> Errand:
    """Rows that fit; another request may take the first one's item."""
    optional, variable = tuple(rng.sample(("maker", "size", "topic", "year", "budget"), 3)), f"{noun}s"
    one, two = _results(rng, 2)
    step = Step(
        f"{rng.choice(_FIND)}_{noun}s", variable, _own(*optional),
        {"item": "tag", one: _KINDS.get(one, "word"), two: _KINDS.get(two, "word")}, rows=True,
    )  # fmt: skip
    row = rng.choice(("{{item}}, {0} {{{0}}}, {1} {{{1}}}", "{{item}} with {1} {{{1}}} and {0} {{{0}}}",
                      "a {{{0}}} {{item}} of {1} {{{1}}}"))  # fmt: skip
    return Errand(
        intent=f"{rng.choice(_FIND)}_{noun}",
        required=(),
        optional=optional,
        steps=(step,),
        openers=_asks(rng, _SHOW, noun),
        told=row.format(one, two),
        failed={variable: f"We have no such {noun}."},
        supplies={"item": f"{variable}.{FIRST}.item"},
    )


def _chain(rng: Random, noun: str) -> Errand:
    """A call that takes what another returned, under a test or not."""
    asked, extra = rng.choice(("item", "lot", "claim")), rng.choice(("points", "guests", "tier", "rebate"))
    early, late = rng.sample(("duration", "deposit", "town", "size"), 2)
    key = rng.choice(("rate", "class", "zone", "best"))
    one, two = rng.sample(_VARIABLES, 2)
    keys = _results(rng, 2)
    first = Step(f"{noun}_{key}", one, _own(extra, early), {"approved": "yes", key: "ticket"})
    second = Step(
        f"{rng.choice(('quote', 'compute', 'make'))}_{noun}", two,
        {asked: asked, key: f"{one}.{key}", late: late}, keys, when=(f"{one}.approved",) if rng.random() < 0.6 else (),
    )  # fmt: skip
    return Errand(
        intent=f"{noun}_quote",
        required=(asked, extra, early, late),
        optional=(),
        steps=(first, second),
        openers=_asks(rng, _ASK, noun),
        told=f"With {{{late}}} the {noun} of {{{asked}}} comes {_listed(rng, keys)}.",
        failed={one: f"I cannot offer a {noun} with {{{extra}}} {extra}."},
    )


def _booked(rng: Random, noun: str) -> Errand:
    """A change under one check or two."""
    asked, who = rng.choice(("item", "work", "topic", "mark", "lot")), rng.choice(_WHO)
    when = rng.choice((("day", "time"), ("day", "time"), ("day",), ()))
    verb, test = rng.choice(_DO), rng.choice(("free", "possible", "open", "available"))
    one, two, three = rng.sample(_VARIABLES, 3)
    ticket = rng.choice(("receipt", "claim", "ticket"))
    verified = len(who) == 2 and rng.random() < 0.5
    check = Step(f"{rng.choice(_CHECK)}_{noun}", one, _own(asked, *when), {test: "yes", **_results(rng, 1)})
    verify = Step(f"verify_{who[-1]}", two, _own(*who), {"valid": "yes"}, waits=True)
    change = Step(
        f"{verb}_{noun}", three, _own(asked, *when, *who), {ticket: "ticket"},
        when=(f"{one}.{test}", f"{two}.valid") if verified else (f"{one}.{test}",), waits=True,
    )  # fmt: skip
    moment = " at ".join(f"{{{name}}}" for name in when) or f"for {{{who[0]}}}"
    return Errand(
        intent=f"{verb}_{noun}",
        required=(asked, *when, *who),
        optional=(),
        steps=(check, verify, change) if verified else (check, change),
        openers=_asks(rng, _WANT, f"a {noun}", verb),
        told=rng.choice((f"Done, {{{who[0]}}}: {noun} {{{asked}}}, {moment}. Your {ticket} is {{{ticket}}}.",
                         f"The {noun} {{{asked}}} is yours, {moment}, under {{{ticket}}}.")),
        proposed=rng.choice((f"{{{asked}}} is {test}, {moment}. Shall I {verb} it for {{{who[0]}}}?",
                             f"The {noun} is {test}: {{{asked}}}, {moment}. Should I {verb} it?")),
        failed={one: f"{{{asked}}} is not {test}, {moment}. Would another one do?",
                two: f"I could not verify the {who[-1]} {{{who[-1]}}}."},
    )  # fmt: skip


def _moved(rng: Random, noun: str) -> Errand:
    """Something booked is looked up, then moved or dropped."""
    ticket, drops = rng.choice(("receipt", "claim", "ticket", "parcel")), rng.random() < 0.5
    one, two, three = rng.sample(_VARIABLES, 3)
    verb = rng.choice(_DROP if drops else _MOVE)
    when = () if drops else rng.choice((("day", "time"), ("day",)))
    booked = {"item": "tag"} | ({"day": "day", "time": "time"} if drops else {})
    look = Step(f"find_{noun}", one, _own(ticket), {"found": "yes", **booked})
    free = Step(
        f"{noun}_free", two, {"item": f"{one}.item", **_own(*when)}, {"free": "yes"}, when=(f"{one}.found",)
    )  # fmt: skip
    change = Step(
        f"{verb}_{noun}", three, _own(ticket, *when), {"done": "yes"},
        when=(f"{one}.found" if drops else f"{two}.free",), waits=True,
    )  # fmt: skip
    moment = " at ".join(f"{{{name}}}" for name in when or ("day", "time"))
    return Errand(
        intent=f"{verb}_{noun}",
        required=(ticket, *when),
        optional=(),
        steps=(look, change) if drops else (look, free, change),
        openers=_asks(rng, _WANT, f"my {noun}", verb),
        told=f"All right, I dropped {{{ticket}}}." if drops else f"Done, your {noun} {{{ticket}}} is on {moment} now.",
        proposed=f"{{{ticket}}} is for {{item}} on {moment}. Shall I {verb} it?" if drops
        else f"{{item}} is free on {moment}. Shall I {verb} {{{ticket}}}?",
        failed={one: f"I find no {noun} {{{ticket}}}.", two: f"On {moment} {{item}} is taken already."},
    )  # fmt: skip


_SHAPES = (_look, _list, _chain, _booked, _moved, _look, _booked, _moved)


@cache
def errands(seed: int = 23) -> tuple[Errand, ...]:
    """One errand a noun, the same for every seed given; the shapes take turns."""
    rng = Random(seed)
    return tuple(_SHAPES[index % len(_SHAPES)](rng, noun) for index, noun in enumerate(_NOUNS))


def fields_of(asked: Sequence[Errand]) -> tuple[str, ...]:
    """The fields of all errands, each once, in frame order."""
    return tuple(dict.fromkeys(name for errand in asked for name in errand.fields))


def supplied_to(errand: Errand, asked: Sequence[Errand]) -> dict[str, str]:
    """The fields that the other errands of the utterance supply to `errand`."""
    return {name: source for other in asked if other is not errand for name, source in other.supplies.items()}


def missing(asked: Sequence[Errand], known: Collection[str]) -> str | None:
    """The field to ask for next, None where `known` and what the errands supply to each other are enough."""
    for errand in asked:
        enough = {*known, *supplied_to(errand, asked)}
        wanted = next((name for name in errand.required if name not in enough), None)
        if wanted is None and not errand.required and not set(errand.optional) & set(known):
            wanted = errand.optional[0]
        if wanted is not None:
            return wanted
    return None


def joined(rng: Random, first: Errand) -> list[Errand]:
    """`first` and another errand of the same utterance, preferably one that takes what the first supplies."""
    others = [other for other in errands() if not other.variables & first.variables]
    others = [other for other in others if not first.changes and not set(other.supplies) & set(first.fields)]
    takers = [other for other in others if set(other.required) & set(first.supplies)]
    pool = takers if takers and rng.random() < 0.6 else others
    return [first, rng.choice(pool)] if pool else [first]
