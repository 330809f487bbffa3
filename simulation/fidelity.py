"""Can the simulator be trusted? Its own errors in a conversation, decided in code, and the gate before the corpora.

    left_early            EXIT while a goal's end state is not met, and the assistant had neither failed nor refused
    contradicted          a value was stated that is in no goal, not in the profile, and nobody had said before
    answered_for_assistant  an utterance speaks as the assistant: role marks, frames, plans, its deeds, its last reply
    repeated              the same utterance again and again
    unreachable           the goal cannot be met at all: see `simulation.reachable`, it takes another conversation

In goes a played conversation, out come codes, each once. Invariant: what the assistant did wrong is no error of the
simulator: doubtful cases count for the simulator, so that the rate is one of sure errors.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from agentmill.config import UserError
from agentmill.domains.base import Assessment, Domain, Goal, Json, Scenario
from agentmill.records import Turn
from agentmill.runs import Run, wilson
from simulation.conversation import Played
from simulation.tables import iter_parts

CODES = ("left_early", "contradicted", "answered_for_assistant", "repeated")
UNREACHABLE = "unreachable"
SAME_AT_MOST = 3  # an utterance of some length that comes a fourth time is a loop
_LONG = 4  # words; "Yes, please." may come as often as there are proposals
_SHORT_AT_MOST = 8
_LATELY = 4  # turns
_STUCK = 3  # an assistant that says the same so often has failed
_ECHO = 8  # words in a row

_ROLE = re.compile(r"(?:^|[\s\"'\[<*(|])(?:assistant|agent|chatbot|bot|ai|user|customer|human)\s*[\])>*|]*:\s*\S", re.I)
_FRAME = re.compile(
    r"\"(?:intent|entities|confirmed|violations|verdict)\"\s*:|(?:^|\s)(?:intent|entities|proposed|confirmed|results|"
    r"history|persona|goals): \S|```|<\|",
    re.I,
)
_DEED = re.compile(
    r"\b(?:i have|i've|i)\s+(?:just\s+|now\s+)?(?:booked|cancel(?:l)?ed|reserved|moved|noted|arranged|rescheduled)\s+"
    r"(?:you|your|it for you|that for you|this for you)\b|"
    r"\b(?:shall|should|may|can) i (?:book|cancel|reserve|move|note) (?:it|that|this|you|your)\b|"
    r"\bhow (?:can|may) i (?:help|assist) you\b|\bis there anything else i can\b|\byour (?:booking|reservation) is "
    r"confirmed\b",
    re.I,
)
_CALL = re.compile(r"\b([a-z]+_[a-z_]+)\s*\(")
_IDIOMS = re.compile(  # choices such as a condition are words that people use all the time
    r"\b(?:fair enough|all good|ok(?:ay)?,? good|good,? now|good (?:deal|morning|day|evening|afternoon|idea|one|to))\b",
    re.I,
)
_WORDS = re.compile(r"\w+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


class UnfaithfulSimulator(UserError):
    """The simulator made too many errors of its own for a corpus to be built from its conversations."""


def user_errors(
    domain: Domain, scenario: Scenario, played: Played, assessment: Assessment, world: Json
) -> tuple[str, ...]:
    """The simulator's errors in one conversation, in the order of `CODES`.

    One that ended in an error of a model says nothing about when the customer left.
    """
    said = [turn.utterance for turn in played.turns]
    replies = ["", *(turn.reply for turn in played.turns)]
    found = {
        "left_early": played.status == "exit" and _left_early(domain, scenario, played.turns, assessment, world),
        "contradicted": any(True for _ in contradictions(domain, scenario, said, replies)),
        "answered_for_assistant": any(
            _speaks_for_assistant(domain, *pair) for pair in zip(said, replies, strict=False)
        ),
        "repeated": _repeated(said),
    }
    return tuple(code for code in CODES if found[code])


def unmet(domain: Domain, scenario: Scenario, world: Json) -> list[Goal]:
    """The goals whose end state does not hold: those that add a reason to what is wrong without them."""
    alone = set(domain.assess(scenario.model_copy(update={"goals": ()}), world).reasons)
    wanted = [goal for goal in scenario.goals if goal.expect]
    return [
        goal
        for goal in wanted
        if set(domain.assess(scenario.model_copy(update={"goals": (goal,)}), world).reasons) - alone
    ]


def _left_early(domain: Domain, scenario: Scenario, turns: Sequence[Turn], assessment: Assessment, world: Json) -> bool:
    """Whether the customer left something undone that was still to be had.

    The assistant is to blame where it ended in a safe reply, said the same three times, or did not hear at the end what
    it was told. For each goal see `_still_to_be_had`.
    """
    left = [] if assessment.success else unmet(domain, scenario, world)
    if not left or any(turn.status == "safe_reply" for turn in turns) or _stuck(turns):
        return False
    readings = _readings(domain, turns)
    return not _unheard(left, readings) and any(_still_to_be_had(goal, turns, readings) for goal in left)


def _still_to_be_had(goal: Goal, turns: Sequence[Turn], readings: Sequence[Json]) -> bool:
    """Whether a goal that is not met was not asked for, or the last word on it was a question that was left unanswered.

    It was not where the assistant took the wish for another one, or has refused.
    """
    wanted = {goal.intent, *goal.also}
    about = [number for number, heard in enumerate(readings) if {heard["intent"], *heard.get("also", ())} & wanted]
    if not about:
        return True
    if any(set(turns[number].intent.split("+")).isdisjoint(wanted) for number in about):
        return False
    return about[-1] == len(turns) - 1 and turns[-1].reply.rstrip().endswith("?")


def _unheard(left: Sequence[Goal], readings: Sequence[Json]) -> bool:
    """Whether the customer has lately had to say again what they want: the same value of a goal that is left undone."""
    told = Counter((name, str(value)) for heard in readings[-_LATELY:] for name, value in heard["entities"].items())
    return any(times > 1 and any(_wanted(goal, *pair) for goal in left) for pair, times in told.items())


def _wanted(goal: Goal, name: str, text: str) -> bool:
    return any(str(goal.slots.get(f"{kind}{name}")) == text for kind in ("", "else_", "mind_"))


def _readings(domain: Domain, turns: Sequence[Turn]) -> list[Json]:
    """What each utterance says: by the pack's reading where it has one, else what the assistant took as its intent."""
    if domain.heard is None:
        return [{"intent": turn.intent, "also": turn.intent.split("+"), "entities": {}} for turn in turns]
    readings: list[Json] = []
    before: tuple[str, ...] = ()
    reply = ""
    for turn in turns:
        heard = domain.heard(_IDIOMS.sub(" ", turn.utterance), before, reply)
        before, reply = (heard["intent"], *heard.get("also", ())), turn.reply
        readings.append(heard)
    return readings


def _stuck(turns: Sequence[Turn]) -> bool:
    """Whether the assistant has said the same thing so often that a person would give up."""
    replies = Counter(_plain(turn.reply) for turn in turns)
    return max(replies.values(), default=0) >= _STUCK


def contradictions(
    domain: Domain, scenario: Scenario, said: Sequence[str], replies: Sequence[str]
) -> Iterator[tuple[int, str, Any]]:
    """The verbatim values and choices that were stated and that the customer cannot know of: (turn, entity, value).

    `replies` begin with the "" before the first utterance. A pack that cannot read an utterance finds none.
    """
    if domain.heard is None:
        return
    known = {_plain(str(value)) for value in _values([goal.slots for goal in scenario.goals])}
    known |= {_plain(str(value)) for value in _values([scenario.profile, scenario.limits])}
    own = _plain(scenario.topic)
    before: tuple[str, ...] = ()
    for number, utterance in enumerate(said):
        heard = domain.heard(_IDIOMS.sub(" ", utterance), before, replies[number])
        before = (heard["intent"], *heard.get("also", ()))
        told = _plain(" ".join(replies[: number + 1]))
        for name, value in heard["entities"].items():
            entity = domain.entities[name]
            if not (entity.verbatim or entity.choices):
                continue
            text = _plain(str(value))
            if text not in known and not _within(text, told) and not _within(text, own):
                yield number, name, value


def _values(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _values(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _values(inner)
    else:
        yield value


def _within(text: str, longer: str) -> bool:
    return f" {text} " in f" {longer} "


def _speaks_for_assistant(domain: Domain, utterance: str, reply: str) -> bool:
    """Whether an utterance after `reply` holds what only the assistant, or its agents, would say."""
    if _ROLE.search(utterance) or _FRAME.search(utterance) or _DEED.search(utterance):
        return True
    if any(name in domain.tools for name in _CALL.findall(utterance)):
        return True
    said, told = _plain(utterance).split(), _plain(reply).split()
    if len(said) < _ECHO:
        return False
    runs = {tuple(told[place : place + _ECHO]) for place in range(len(told) - _ECHO + 1)}
    return any(tuple(said[place : place + _ECHO]) in runs for place in range(len(said) - _ECHO + 1))


def _repeated(said: Sequence[str]) -> bool:
    """Whether an utterance comes so often that nothing will come of it."""
    for text, count in Counter(map(_plain, said)).items():
        if count > (SAME_AT_MOST if len(text.split()) >= _LONG else _SHORT_AT_MOST):
            return True
    return False


def _plain(text: str) -> str:
    """A text as words alone, so that punctuation, case and thousands separators do not matter."""
    return " ".join(_WORDS.findall(_THOUSANDS.sub("", text).casefold()))


def record(run: Run) -> None:
    """Record `simulate.user_errors` and a share for each code, from the conversations that are written."""
    total, counts = 0, Counter[str]()
    for codes in recorded_errors(run):
        total += 1
        counts.update(("any",) if codes else ())
        counts.update(codes)
    for code in ("any", *CODES):
        name = "simulate.user_errors" if code == "any" else f"simulate.user_errors.{code}"
        run.record(name, counts[code] / max(1, total), n=total, interval=wilson(counts[code], total))


def recorded_errors(run: Run) -> Iterator[tuple[str, ...]]:
    """The simulator's errors of each conversation that a run has recorded, in order."""
    for part in iter_parts(run.path("simulate", "conversations"), ["user_errors_json"]):
        yield from (tuple(json.loads(text)) for text in part["user_errors_json"].to_pylist())


def require_faithful(run: Run, limit: float) -> None:
    """The gate in front of the judge and the corpora: the simulator's error rate must not be above `limit` for sure.

    For sure means that the lower end of the rate's 95 % interval is above it, so that a small run is not stopped by
    chance; unreachable goals count by themselves. Conversations with errors are left out of the corpora in any case.

    Raises:
        UnfaithfulSimulator: when it is.
    """
    errors = list(map(bool, recorded_errors(run)))
    bad, total = sum(errors), len(errors)
    low, high = wilson(bad, total)
    shares = {name.rpartition(".")[2]: figure for name, figure in run.figures("simulate.user_errors").items()}
    never = shares.get(UNREACHABLE)
    if never is not None and never.interval is not None and never.interval[0] > limit:
        raise UnfaithfulSimulator(
            f"refine: {float(never.value):.1%} of the conversations have goals that cannot be reached, above "
            f"refine.max_user_errors={limit:g}; nothing was judged or built. Mend the pack's scenarios, simulate again"
        )
    if low <= limit:
        return
    worst = max(CODES, key=lambda code: float(shares[code].value) if code in shares else 0.0)
    raise UnfaithfulSimulator(
        f"refine: the user simulator made errors of its own in {bad} of {total} conversations ({bad / total:.1%}, "
        f"95 % interval {low:.1%} to {high:.1%}), above refine.max_user_errors={limit:g}, mostly {worst}; nothing was "
        f"judged or built. See `agentmill figures {run.name} simulate.user_errors`, mend the simulator (its model or "
        "its prompt) and simulate again, or raise refine.max_user_errors"
    )
