"""How far a judge can be trusted: the gold cases, the measures on them, and the verification behind the verdicts."""

import json
from pathlib import Path

import pytest

from agentmill.domains.automotive.seed import Vehicle, world_data
from agentmill.domains.base import Domain, GoldCase, Scenario, load_domain
from agentmill.domains.kit.gold import FALSE_ALARM, renamed
from agentmill.plans.compare import equivalent
from agentmill.plans.parse import Plan
from agentmill.plans.sandbox import Sandbox
from agentmill.runs import Run
from simulation.agreement import Seen, kappa, measures, record
from simulation.judge import Judge, Judged
from simulation.judging import SecondLook, looked_at_again
from simulation.models import ModelSettings, build_model
from simulation.remembered import Remembered
from simulation.verify import AGAINST_THE_GOAL, NOT_COMPLETE, Place, Verifier

AUTOMOTIVE = load_domain("automotive")
STATE = "intent: book_test_drive\nstock: {stock}\nday: {day}\ntime: {time}\nname: {name}\nlicence: {licence}"
PLAN = """slot = check_slot(stock="{stock}", day="{day}", time="{time}")
check = verify_licence(name="{name}", licence="{licence}")
if slot["free"] and check["verified"]:
    booking = book_test_drive(stock="{stock}", day="{day}", time="{time}", name="{name}", licence="{licence}")"""


def booking() -> tuple[Scenario, dict[str, str]]:
    """A scenario whose only change is a booking, and its slots."""
    for one in AUTOMOTIVE.source("core")(200, 1, "train"):
        wanted = [goal.expect["booking"] for goal in one.goals if "booking" in goal.expect]
        if wanted and not any("cancelled" in goal.expect for goal in one.goals):
            return one, wanted[0]
    raise AssertionError("no scenario books anything")


def test_gold_cases_have_a_right_output_the_same_in_other_words_and_a_wrong_one() -> None:
    _, slots = booking()
    assert AUTOMOTIVE.gold is not None
    frame = STATE.format(**slots) + "\nconfirmed: yes"
    right, other, wrong = AUTOMOTIVE.gold("planner", frame, 1)
    assert (right.mistake, other.mistake) == ("", "")
    assert right.output == right.right == PLAN.format(**slots)
    assert other.output != right.output
    assert equivalent(Plan.parse(other.output), Plan.parse(right.output))
    assert wrong.mistake in ("missing_check", "wrong_tool", "incomplete", "needless")
    assert AUTOMOTIVE.gold("planner", frame, 1) == [right, other, wrong]
    alarm = AUTOMOTIVE.gold("evaluator", f"{frame}\nplan: {PLAN.format(**slots)}", 1)[-1]
    assert alarm.mistake == FALSE_ALARM
    assert not json.loads(alarm.output)["ok"]


def test_a_renamed_plan_is_the_same_plan() -> None:
    plan = PLAN.format(stock="N4821", day="friday", time="15:00", name="Ana B", licence="D4471902")
    assert "the_slot" in renamed(plan)
    assert equivalent(Plan.parse(plan), Plan.parse(renamed(plan)))


async def test_the_expert_agrees_with_the_gold_cases_of_both_packs() -> None:
    """The expert knows them by construction, so this shows that cases, judge and measures fit together."""
    for domain in (AUTOMOTIVE, load_domain("library_desk")):
        judge = Judge(domain, build_model(ModelSettings(), domain), ModelSettings(), attempts=1, max_tokens=100)
        frame = "intent: none\nassistant: none\ncustomer: When are you open on Friday?"
        assert domain.gold is not None
        seen = [
            Seen(case, await judge.judge(case.agent, case.frame, case.output))
            for case in domain.gold("understander", frame, 1)
        ]
        assert len(seen) == 2
        assert measures(seen, domain)["agreement"].value == 1.0
        assert measures(seen, domain)["mended"].value == 1.0


def seen(mistake: str, verdict: str, refined: str = "right") -> Seen:
    case = GoldCase("explainer", "customer: x", "said", "right", mistake)
    return Seen(case, Judged(verdict, refined))  # type: ignore[arg-type]


def test_precision_recall_and_kappa_are_about_wrong_outputs_and_leave_out_what_was_not_decided(tmp_path: Path) -> None:
    cases = [
        *[seen("", "keep")] * 8,
        *[seen("", "edit")] * 2,
        *[seen("wrong", "edit")] * 6,
        *[seen("wrong", "keep")] * 4,
        *[seen("wrong", "unjudged")] * 5,
    ]
    found = measures(cases, AUTOMOTIVE)
    assert (found["agreement"].value, found["agreement"].n) == (0.7, 20)
    assert found["precision"].value == 6 / 8
    assert found["recall"].value == 6 / 10
    assert found["kappa"].value == pytest.approx(0.4)
    assert found["kappa"].interval[0] < 0.4 < found["kappa"].interval[1]
    assert (found["unjudged"].value, found["unjudged"].n) == (0.2, 25)
    run = Run.create(tmp_path / "run", {}, "test")
    record(run, cases, [("keep", "keep"), ("edit", "keep"), ("keep", "unjudged")], AUTOMOTIVE)
    figures = run.figures("refine")
    assert figures["refine.judge.explainer.recall"].n == 10
    assert figures["refine.judge.recall.wrong"].value == 0.6
    assert (figures["refine.second_look.agreement"].value, figures["refine.second_look.agreement"].n) == (0.5, 2)
    assert figures["refine.second_look.undecided"].value == pytest.approx(1 / 3)


def test_kappa_is_nought_for_a_judge_that_always_says_the_same() -> None:
    assert kappa([(True, True), (False, True)] * 20).value == pytest.approx(0.0)
    assert kappa([(True, True)] * 5).value == 1.0


def test_the_second_judges_sample_is_a_share_of_the_calls_and_the_same_each_time() -> None:
    look = SecondLook(share=0.2)
    digests = [f"{number:032x}" for number in range(2000)]
    drawn = [digest for digest in digests if looked_at_again(digest, 1, look)]
    assert 300 < len(drawn) < 500
    assert drawn == [digest for digest in digests if looked_at_again(digest, 1, look)]
    assert drawn != [digest for digest in digests if looked_at_again(digest, 2, look)]
    assert not any(looked_at_again(digest, 1, None) for digest in digests)


def test_what_is_remembered_is_bounded_and_forgets_the_oldest() -> None:
    memory = Remembered[int](2)
    memory.put("a", 1)
    memory.put("b", 2)
    assert memory.get("a") == 1
    memory.put("c", 3)
    assert (len(memory), memory.get("a"), memory.get("b"), memory.get("c")) == (2, 1, None, 3)


async def verified(domain: Domain, frame: str, plan: str, place: Place) -> str:
    async with Sandbox(1) as sandbox:
        return await Verifier(domain, sandbox).problem("planner", frame, plan, place)


async def test_a_refined_plan_must_do_what_the_state_asks_for() -> None:
    one, slots = booking()
    frame, place = STATE.format(**slots) + "\nconfirmed: yes", Place(one.world_seed, one)
    assert await verified(AUTOMOTIVE, frame, PLAN.format(**slots), place) == ""
    only_checked = PLAN.format(**slots).splitlines()[0]
    assert (await verified(AUTOMOTIVE, frame, only_checked, place)).startswith(NOT_COMPLETE)
    assert await verified(AUTOMOTIVE, STATE.format(**slots), only_checked, place) == ""


async def test_a_refined_plan_that_changes_the_world_must_not_work_against_the_goals() -> None:
    one, slots = booking()
    other = slots | {"stock": next(car.stock for car in cars(one.world_seed) if car.stock != slots["stock"])}
    frame = STATE.format(**other) + "\nconfirmed: yes"
    problem = await verified(AUTOMOTIVE, frame, PLAN.format(**other), Place(one.world_seed, one))
    assert problem.startswith(AGAINST_THE_GOAL)
    assert await verified(AUTOMOTIVE, frame, PLAN.format(**other), Place(one.world_seed)) == ""


async def test_a_plan_is_verified_in_the_world_as_its_turn_found_it() -> None:
    one, slots = booking()
    frame, plan = STATE.format(**slots) + "\nconfirmed: yes", PLAN.format(**slots)
    nothing_wanted = one.model_copy(update={"goals": ()})
    first = Place(one.world_seed, nothing_wanted)
    later = Place(one.world_seed, nothing_wanted, before=(("book_test_drive", plan, ()),))
    async with Sandbox(1) as sandbox:
        verifier = Verifier(AUTOMOTIVE, sandbox)
        assert (await verifier.problem("planner", frame, plan, first)).startswith(AGAINST_THE_GOAL)
        assert await verifier.problem("planner", frame, plan, later) == ""  # the slot is taken: nothing is booked again


def cars(world_seed: int) -> list[Vehicle]:
    return [car for car in world_data(world_seed).vehicles if car.status == "available"]
