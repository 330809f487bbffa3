"""`agentmill domain check`: the skeleton passes, and every kind of fault in it is found and named."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentmill.agents.state import DialogueState
from agentmill.domains.base import (
    Assessment,
    Domain,
    Entity,
    Json,
    PlannedSwitch,
    Rule,
    RuleCase,
    Scenario,
    Situation,
    load_domain,
    tool,
)
from agentmill.domains.check import PARTS, findings_of, guarded
from agentmill.domains.check.elsewhere import process_findings
from agentmill.domains.check.finding import Finding
from agentmill.domains.kit.expert import with_expert
from agentmill.domains.switching import Switch
from agentmill.models.chat import ChatReply, ChatRequest
from cluster.cli import app
from cluster.domains import check_pack
from cluster.skeleton import new_pack
from simulation.rehearsal import chosen, rehearse

NAME = "checked_desk"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fresh pack."""
    folder = tmp_path_factory.mktemp("packs")
    new_pack(NAME, folder)
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    import sys

    monkeypatch.chdir(folder)
    path = list(sys.path)
    yield folder
    sys.path[:] = path


@pytest.fixture
def desk(here: Path) -> Domain:
    return load_domain(NAME)


def told(found: list[Finding], about: str, sentence: str, *, error: bool = True) -> bool:
    return any(f.about == about and sentence in f.sentence and f.error == error for f in found)


def of(part: str, domain: Domain) -> list[Finding]:
    return guarded(part, lambda: PARTS[part](domain))


def with_intent(desk: Domain, name: str, **changes: Any) -> Domain:
    return replace(desk, intents={**desk.intents, name: replace(desk.intents[name], **changes)})


def with_cases(desk: Domain, **cases: RuleCase) -> Domain:
    return replace(desk, rule_cases={**desk.rule_cases, **cases})


def with_prompt(desk: Domain, agent: str, text: str) -> Domain:
    full: Mapping[Any, str] = {**desk.prompts["full"], agent: desk.prompts["full"][agent] + text}  # type: ignore[index]
    return replace(desk, prompts={**desk.prompts, "full": full})


def with_scenarios(desk: Domain, change: Any) -> Domain:
    """The pack with every drawn scenario changed by `change(scenario, index)`."""
    draw = desk.scenarios
    return replace(desk, scenarios=lambda n, s, split: [change(x, i) for i, x in enumerate(draw(n, s, split))])


def test_a_fresh_pack_lacks_nothing(here: Path) -> None:
    assert check_pack(NAME) == []


def test_the_command_shows_a_table_and_exits_with_1_on_an_error(here: Path) -> None:
    (here / "faulty_desk").mkdir(exist_ok=True)
    text = f"from dataclasses import replace\n\n\ndef build():\n    from {NAME} import build\n\n"
    (here / "faulty_desk" / "__init__.py").write_text(f"{text}    return replace(build(), rule_cases={{}})\n")
    good = CliRunner().invoke(app, ["domain", "check", NAME])
    assert (good.exit_code, good.stdout) == (0, "nothing is missing\n")
    bad = CliRunner().invoke(app, ["domain", "check", "faulty_desk"], env={"COLUMNS": "200"})
    assert bad.exit_code == 1
    assert "rule DAY_CHECK" in bad.stdout
    assert "3 errors, 0 notes" in bad.stdout


def test_tables_that_contradict_each_other_are_told_alone(here: Path) -> None:
    (here / "torn_desk").mkdir(exist_ok=True)
    text = f"from dataclasses import replace\n\n\ndef build():\n    from {NAME} import build\n\n"
    (here / "torn_desk" / "__init__.py").write_text(f"{text}    return replace(build(), tools={{}})\n")
    found = check_pack("torn_desk")
    assert {finding.about for finding in found} == {"tables"}
    assert any("tools names 'find_repair'" in finding.sentence for finding in found)


def test_what_nobody_can_use_is_found(desk: Domain) -> None:
    entities = {**desk.entities, "colour": Entity("colour", str, " ")}
    unused = replace(with_intent(desk, "repair_status", tools=(), required=()), entities=entities, title="")
    found = of("tables", unused)
    assert told(found, "tool find_repair", "no intent names it")
    assert told(found, "entity ticket", "no intent uses it")
    assert told(found, "entity colour", "it has no question")
    assert told(found, "title", "it is empty")


def test_a_change_and_its_confirmation_belong_together(desk: Domain) -> None:
    found = of("tables", with_intent(desk, "book_repair", needs_confirmation=False))
    assert told(found, "intent book_repair", "its tool book_repair changes the world and needs_confirmation is not set")
    found = of("tables", with_intent(desk, "repair_status", needs_confirmation=True))
    assert told(found, "intent repair_status", "no tool of it changes the world")


def test_what_is_supplied_to_a_change_that_waits_is_remembered(desk: Domain) -> None:
    found = of("tables", with_intent(desk, "repair_status", supplies=("day",)))
    assert told(found, "intent repair_status", "it supplies day, which is not remembered from results")
    assert of("tables", with_intent(desk, "book_repair", supplies=("ticket",))) == []


def test_documents_have_their_keys_and_a_text(desk: Domain) -> None:
    rows: list[Json] = [{"document": "x", "source": "y"}] * 7 + [{"document": " ", "context": {}, "source": "z"}]
    found = of("tables", replace(desk, documents=lambda: rows))
    assert told(found, "document 0", "it lacks context")
    assert told(found, "documents", "and 5 more of this kind")
    assert told(of("tables", replace(desk, documents=lambda: rows[-1:])), "document 0", "its text is empty")
    assert told(of("tables", replace(desk, documents=list)), "documents", "there are none", error=False)


def test_every_rule_has_a_case_that_violates_it_alone_and_one_that_keeps_it(desk: Domain) -> None:
    state = DialogueState(intent="repair_status", entities={"ticket": "R4821"})
    good, bad = Situation('a = find_repair(ticket="R4821")', state), Situation('a = find_repair(ticket="R1")', state)
    code = "GROUNDED_ARGUMENT"
    assert told(of("rules", with_cases(desk, **{code: RuleCase(good, good)})), f"rule {code}", "the checks say nothing")
    assert told(
        of("rules", with_cases(desk, **{code: RuleCase(bad, bad)})),
        f"rule {code}",
        f"keeping case the checks say {code}",
    )
    found = of("rules", with_cases(desk, **{code: RuleCase(Situation("import os", state), good)}))
    assert told(found, f"rule {code}", "the checks say FORBIDDEN")
    found = of("rules", with_cases(desk, DAY_CHEK=RuleCase(bad, good)))
    assert told(found, "rule case DAY_CHEK", "did you mean DAY_CHECK?")
    assert told(of("rules", replace(desk, rule_cases={})), "rule FULL_DAY", "no case violates or keeps it")


def test_a_rule_that_fails_is_a_finding_with_its_place(desk: Domain) -> None:
    def broken(plan: Any, state: Any, facts: Json) -> str | None:
        return facts["nothing"]

    rules = (Rule("BROKEN", "Never.", broken),)
    cases = {"BROKEN": desk.rule_cases["FULL_DAY"]}
    found = of("rules", replace(desk, rules=rules, rule_cases=cases))
    assert told(found, "rules", "the pack's code fails with KeyError: 'nothing' (test_domain_check.py, line")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\nCall find_repairs(ticket).", "it names find_repairs, and there is no such tool"),
        ("\nUse it for repair_state only.", "it names repair_state, and there is no such tool, intent or entity"),
        ("\nKeep DAY_CHEKC.", "it names DAY_CHEKC, and there is no such rule"),
        ("\n- ORDER: always.", "it names ORDER, and there is no such rule"),
    ],
)
def test_a_prompt_names_only_what_there_is(desk: Domain, text: str, sentence: str) -> None:
    assert told(of("prompts", with_prompt(desk, "planner", text)), "prompt full planner", sentence)


@tool()
def count_places(world: Any, *, day: str) -> Json:
    """The places of a day."""
    return {"free_places": 3}


def test_a_prompt_may_name_the_keys_of_results(desk: Domain) -> None:
    speaking = with_prompt(desk, "planner", "\nCall count_places(day) and look at free_places.")
    counting = replace(speaking, tools={**desk.tools, "count_places": count_places})
    assert of("prompts", counting) == []
    assert told(of("prompts", speaking), "prompt full planner", "it names free_places")


def test_a_full_prompt_names_everything(desk: Domain) -> None:
    full: Mapping[Any, str] = {**desk.prompts["full"], "planner": "Plan.", "understander": "Listen."}
    found = of("prompts", replace(desk, prompts={**desk.prompts, "full": full}))
    assert told(found, "prompt full planner", "it does not name book_repair")
    assert told(found, "prompt full planner", "it does not name FULL_DAY")
    assert told(found, "prompt full understander", "it does not name small_talk")


def without_intent(scenario: Scenario, index: int) -> Scenario:
    goals = tuple(goal for goal in scenario.goals if goal.intent != "small_talk")
    return scenario.model_copy(update={"goals": goals})


def test_every_intent_is_some_customers_goal(desk: Domain) -> None:
    found = of("scenarios", with_scenarios(desk, without_intent))
    assert told(found, "intent small_talk", "none of 600 scenarios has it as a goal")


@pytest.mark.parametrize(
    ("change", "about", "sentence"),
    [
        (lambda s, i: s.model_copy(update={"seed": random.getrandbits(30)}), "scenarios train", "drawn again from the"),
        (lambda s, i: s.model_copy(update={"sid": "same"}), "scenarios train", "same: another scenario has its id"),
        (lambda s, i: s.model_copy(update={"sid": str(i)}), "scenarios", "both splits have 0"),
        (lambda s, i: s.model_copy(update={"world_seed": 3}), "scenarios", "both splits play in the world 3"),
        (lambda s, i: s.model_copy(update={"split": "train"}), "scenarios heldout", "says split=train"),
    ],
)
def test_scenarios_are_reproducible_and_the_splits_apart(desk: Domain, change: Any, about: str, sentence: str) -> None:
    assert told(of("scenarios", with_scenarios(desk, change)), about, sentence)


def test_scenarios_are_drawn_from_the_seed_and_as_many_as_asked_for(desk: Domain) -> None:
    draw = desk.scenarios
    found = of("scenarios", replace(desk, scenarios=lambda n, s, split: [*draw(n, 0, split)[:5]] * 30))
    assert told(found, "scenarios train", "another seed draws the same ones")
    assert told(found, "scenarios train", "300 were asked for and 150 came")
    assert told(found, "scenarios train", "150 have 5 different contents", error=False)


def test_every_mix_is_looked_at(desk: Domain) -> None:
    draw = desk.scenarios
    mixes = {"few": lambda count, seed, split: draw(count, seed, "train")}
    found = of("scenarios", replace(desk, mixes=mixes))
    assert told(found, "scenarios few heldout", "says split=train")
    assert told(found, "scenarios", "both splits have ")


def with_world(desk: Domain, **methods: Any) -> Domain:
    """The pack with a world that differs in some methods."""
    world = type("World", (desk.open_world,), methods)  # type: ignore[arg-type]
    return replace(desk, open_world=world)


def test_worlds_are_reproducible_and_transactional(desk: Domain) -> None:
    nothing = lambda self: None  # noqa: E731
    found = of("worlds", with_world(desk, rollback=nothing))
    assert any("rollback leaves something behind" in f.sentence for f in found)
    found = of("worlds", with_world(desk, commit=lambda self: self.rollback()))
    assert any("commit does not keep a plan's noted results" in f.sentence for f in found)
    assert any("a recorded tool call does not show in the snapshot" in f.sentence for f in found)
    found = of("worlds", with_world(desk, read_facts=lambda self: {"now": random.random()}))
    assert any("opened twice it is not the same" in f.sentence for f in found)
    found = of("worlds", with_world(desk, read_facts=lambda self: {"days": {1, 2}}))
    assert any("its facts or snapshot are no JSON" in f.sentence for f in found)


def test_worlds_of_two_sessions_are_apart(desk: Domain) -> None:
    one = desk.open_world(0, "shared", None)  # type: ignore[arg-type]
    one.close = lambda: None  # type: ignore[method-assign]
    found = of("worlds", replace(desk, open_world=lambda seed, session, settings: one))
    assert any("what one conversation does shows in another's copy" in f.sentence for f in found)


def test_an_untouched_world_is_no_success(desk: Domain) -> None:
    found = of("worlds", replace(desk, assess=lambda scenario, snapshot: Assessment(success=True)))
    assert any("an untouched world is accepted" in f.sentence and f.error for f in found)


def test_what_depends_on_the_order_of_a_set_is_found_in_another_process(here: Path, desk: Domain) -> None:
    assert list(process_findings(NAME, desk)) == []
    (here / "unordered_desk").mkdir(exist_ok=True)
    lines = [
        "from dataclasses import replace",
        "",
        "def build():",
        f"    from {NAME} import build",
        "    pack = build()",
    ]
    lines += ["    words = ' '.join({f'word{n}' for n in range(50)})"]
    lines += [
        "    return replace(pack, prompts={style: {**texts, 'user': words} for style, texts in pack.prompts.items()})"
    ]
    (here / "unordered_desk" / "__init__.py").write_text("\n".join(lines) + "\n")
    found = list(process_findings("unordered_desk", load_domain("unordered_desk")))
    assert told(found, "other process", "another process draws other scenarios, worlds or prompts")


class Spoiling:
    """The pack's expert with another answer of one agent, wherever `change` gives one."""

    def __init__(self, domain: Domain, agent: str, change: Any) -> None:
        assert domain.expert is not None
        self.expert, self.agent, self.change = domain.expert(0.0), agent, change

    async def complete(self, request: ChatRequest) -> ChatReply:
        reply = await self.expert.complete(request)
        return reply.model_copy(update={"text": self.change(reply.text)}) if request.agent == self.agent else reply


async def rehearsed(desk: Domain, agent: str, change: Any) -> list[Finding]:
    domain = replace(desk, expert=lambda rate: Spoiling(desk, agent, change))
    return await rehearse(domain, chosen(domain, 20)[0][:20])


async def test_an_expert_that_fails_is_found_with_the_last_turn(desk: Domain) -> None:
    found = await rehearsed(desk, "user", lambda text: "Never." if text.startswith(("Yes", "Fine")) else text)
    assert any(
        "without mistakes it does not reach the goals" in f.sentence and "book_repair" in f.sentence for f in found
    )
    assert told(found, "tool book_repair", "no plan of 20 conversations calls it")


async def test_an_answer_that_the_agents_refuse_is_found(desk: Domain) -> None:
    found = await rehearsed(desk, "understander", lambda text: text.replace("small_talk", "smalltalk"))
    assert any("as understander is refused (intent='smalltalk' is unknown)" in f.sentence for f in found)


async def test_an_ungrounded_reply_is_found_and_the_judge_must_keep_what_is_right(desk: Domain) -> None:
    found = await rehearsed(desk, "explainer", lambda text: f"{text} Ask for Gregor.")
    assert any("states gregor, which its prompt does not hold" in f.sentence for f in found)
    assert any(f.about == "judge" and "the expert as judge says edit" in f.sentence for f in found)


async def test_a_pack_without_an_expert_is_noted(desk: Domain) -> None:
    assert told(await rehearse(replace(desk, expert=None), []), "expert", "there is none", error=False)


def test_the_rehearsal_has_every_intent_several_times(desk: Domain) -> None:
    goals = [goal.intent for scenario in chosen(desk, 40)[0] for goal in scenario.goals]
    assert all(goals.count(name) >= 6 for name in desk.intents)
    assert [len(chosen(desk, count)[0]) for count in (40, 90)] == [40, 90]


async def test_a_tool_that_few_conversations_need_is_looked_for_in_more_of_them(desk: Domain) -> None:
    scenarios = chosen(desk, 60)[0]
    first = [s for s in scenarios if all(goal.intent != "book_repair" for goal in s.goals)][:3]
    spare = [s for s in scenarios if any(goal.intent == "book_repair" for goal in s.goals)][:3]
    assert {finding.about for finding in await rehearse(desk, first)} == {"tool check_day", "tool book_repair"}
    assert await rehearse(desk, first, spare) == []


def test_findings_of_runs_every_part(desk: Domain) -> None:
    torn = replace(desk, documents=None, rule_cases=None, scenarios=None, open_world=None)  # type: ignore[arg-type]
    assert {"tables", "rules", "prompts", "scenarios", "worlds", "switches"} == {
        f.about for f in findings_of(torn) if "the pack's code fails" in f.sentence
    }


@pytest.mark.parametrize("name", ["automotive", "library_desk"])
def test_a_pack_that_ships_lacks_nothing(name: str) -> None:
    assert [finding for finding in check_pack(name) if finding.error] == []


def with_switch(desk: Domain, **changes: Any) -> Domain:
    """The skeleton with a switch that one scenario of each split plans."""
    scenarios = desk.scenarios
    switch = Switch("looked_up", "rename", "find_repair is called look_up.", renames={"find_repair": "look_up"})
    switch = replace(switch, **changes)
    name = f"{switch.name}:friday" if switch.takes_value else switch.name

    def drawn(count: int, seed: int, split: str) -> list[Scenario]:
        planned = (PlannedSwitch(name=name, turn=1),)
        return [scenario.model_copy(update={"switches": planned}) for scenario in scenarios(count, seed, split)[:1]]

    assert isinstance(desk.expert, partial)
    policy = desk.expert.args[0].policy
    return with_expert(replace(desk, switches={switch.name: switch}, mixes={"switches": drawn}), policy)


def test_a_pack_without_switches_has_nothing_to_find_and_one_with_a_sound_switch_neither(desk: Domain) -> None:
    assert of("switches", desk) == []
    assert of("switches", with_switch(desk)) == []


def test_a_switch_that_no_scenario_plans_is_found(desk: Domain) -> None:
    undrawn = replace(with_switch(desk), mixes={})
    assert told(of("switches", undrawn), "switches of the kind rename", "no scenario of any mix plans one")


def test_a_planned_switch_that_is_none_or_comes_too_late_is_found(desk: Domain) -> None:
    sound = with_switch(desk)

    def late(count: int, seed: int, split: str) -> list[Scenario]:
        plans = (PlannedSwitch(name="looked_up", turn=99), PlannedSwitch(name="closed", turn=1))
        return [scenario.model_copy(update={"switches": plans}) for scenario in desk.scenarios(1, seed, split)]

    found = of("switches", replace(sound, mixes={"switches": late}))
    assert told(found, "scenarios", "turns at most, so this would never come")
    assert told(found, "scenarios", "the pack has no switch 'closed'")


def test_an_argument_that_nobody_asks_for_is_found(desk: Domain) -> None:
    @tool()
    def find_repair(world: Any, *, ticket: str, colour: str) -> Json:
        """A repair by its ticket and colour."""
        return {}

    wanting = with_switch(desk, renames={}, tools={"find_repair": find_repair})
    assert told(of("switches", wanting), "switch looked_up", "needs colour, which repair_status never asks for")


def test_a_switch_that_cannot_be_made_in_its_world_is_found(desk: Domain) -> None:
    def closed(world: Any, day: str) -> None:
        raise ValueError(f"no day {day}")

    failing = with_switch(desk, renames={}, notice="We are closed on {value}.", apply=closed, kind="hours")
    found = of("switches", failing)
    assert told(found, "switch looked_up", "cannot be made in the world of scenario")
    assert told(found, "switch looked_up", "no day friday")


async def test_the_skeletons_expert_goes_on_when_a_tool_is_renamed(desk: Domain) -> None:
    """Its policy knows nothing of switches: the kit renames what it plans."""
    early = (PlannedSwitch(name="looked_up", turn=0),)
    asking = [s for s in desk.scenarios(40, 0, "train") if {goal.intent for goal in s.goals} == {"repair_status"}]
    scenarios = [scenario.model_copy(update={"switches": early}) for scenario in asking[:3]]
    findings = await rehearse(with_switch(desk), scenarios)
    assert [finding for finding in findings if finding.about in ("expert", "judge")] == []


async def test_the_rehearsal_plays_a_scenario_for_every_switch() -> None:
    pack = load_domain("library_desk")
    scenarios, _ = chosen(pack, 4)
    planned = {planned.name.partition(":")[0] for scenario in scenarios for planned in scenario.switches}
    assert planned >= {"closed_day", "book_withdrawn", "book_for_cancellations", "limit_for_renewals"}
