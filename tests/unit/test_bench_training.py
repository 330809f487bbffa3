"""What the benches of training make of their measurements: medians, ratios of turns, paired differences."""

import json
from pathlib import Path

import pytest

from agentmill.models.chat import Message
from agentmill.runs import Run
from benchmarks import adaptation, throughput
from benchmarks.adaptation_data import REWORDED, Tests, draw_all, reworded
from benchmarks.training import Measured, Side, Turn
from simulation.agent_tests import AgentTest


def turn(rate: float) -> Turn:
    """Ten steps of 100 tokens, the first two slow, the others at `rate` tokens per second."""
    ends = [50.0, 100.0, *(100 + 100 / rate * n for n in range(1, 9))]
    return Turn([100] * 10, ends, 12.0, 1.5)


def measured(**rates: tuple[float, ...]) -> Measured:
    sides: dict[str, Side] = {"ours": "ours", "packed": "packed", "trl": "trl", "trl_default": "trl_default"}
    return Measured("sft", 80, 2, {sides[name]: [turn(rate) for rate in each] for name, each in rates.items()})


def test_steps_that_warm_up_are_not_counted() -> None:
    assert turn(500).rate(2) == pytest.approx(500)
    assert turn(500).rate(1) < 20
    assert turn(500).step_s(2) == pytest.approx(0.2)


def test_ratios_are_those_of_the_medians_with_the_span_of_turns_side_by_side(tmp_path: Path) -> None:
    one = measured(
        ours=(900.0, 1000.0, 1100.0), packed=(2000.0,) * 3, trl=(1000.0, 800.0, 1000.0), trl_default=(500.0,) * 3
    )
    run = Run.create(tmp_path / "run", {}, "agentmill bench training")
    run.record("bench.training.sft.packing_speedup", 99.0)
    throughput.record([one], run)
    found = run.figures("bench.training.sft")
    ratio = found["bench.training.sft.ratio_to_trl"]
    assert ratio.n == 3
    assert ratio.value == pytest.approx(1.0)
    assert ratio.interval == pytest.approx((0.9, 1.25))
    assert found["bench.training.sft.packing_speedup"].value == pytest.approx(4.0)
    assert found["bench.training.sft.packing_speedup_by_length"].value == pytest.approx(2.0)
    assert found["bench.training.sft.trl_tokens_per_s"].value == pytest.approx(1000)
    assert found["bench.training.sft.trl_default_tokens_per_s"].unit == "tokens/s"
    lines = throughput.table([one])
    assert any(line.startswith("sft   ours by trl: 1.00 [0.90, 1.25]") for line in lines)


def test_a_side_that_was_not_measured_has_no_ratio(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {}, "agentmill bench training")
    throughput.record([measured(ours=(950.0,), trl=(1000.0,))], run)
    names = {name.rsplit(".", 1)[1] for name in run.figures("bench.training.sft")}
    assert "ratio_to_trl" in names
    assert not {"packing_speedup", "ratio_to_trl_default"} & names


def test_results_name_machine_versions_and_command(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {}, "agentmill bench training --model tiny")
    throughput.record([measured(ours=(950.0,), trl=(1000.0,))], run)
    written = json.loads(throughput.write_results(run, "tiny", tmp_path / "results").read_text())
    assert written["command"] == "agentmill bench training --model tiny"
    assert written["machine"]["cores"] >= 1
    assert written["versions"]["python"]
    assert written["model"]["num_hidden_layers"] == 4
    assert written["figures"]["bench.training.sft.ratio_to_trl"]["value"] == pytest.approx(0.95)


def test_the_paired_difference_takes_conversations_as_what_was_drawn() -> None:
    ours, theirs = [True, True, True, False] * 10, [True, False, False, False] * 10
    apart = adaptation.difference(ours, theirs, [str(i) for i in range(40)])
    together = adaptation.difference(ours, theirs, [str(i // 20) for i in range(40)])
    assert apart[0] == together[0] == pytest.approx(0.5)
    assert apart[1] < 0.5 < apart[2]
    assert together == pytest.approx((0.5, 0.5, 0.5))  # both conversations are alike


def test_rewording_changes_the_system_prompt_and_nothing_else() -> None:
    messages = (Message(role="system", content="Planner of M."), Message(role="user", content="intent: directions"))
    tests = [AgentTest(f"c-{i}-1", "planner", messages, "way = directions()", 1) for i in range(20)]
    changed = [reworded(test, "M") for test in tests]
    assert {test.messages[0].content for test in changed} == {text.format(title="M") for text in REWORDED["planner"]}
    assert all(test.messages[1:] == messages[1:] and test.reference == tests[0].reference for test in changed)
    assert changed == [reworded(test, "M") for test in tests]


@pytest.fixture(scope="module")
def drawn() -> Tests:
    from agentmill.domains.base import load_domain

    return draw_all(load_domain("automotive"), 30, 25, "core", 11)


def test_a_change_decides_the_answer_in_changed_and_is_only_told_in_told(drawn: Tests) -> None:
    for condition in ("changed", "told"):
        assert len(drawn[condition]) >= 25
        assert all("changes: " in test.messages[-1].content for test in drawn[condition])
    assert not any("changes: " in test.messages[-1].content for test in drawn["trained"])
    renamed = [t for t in drawn["changed"] if t.agent == "planner" and " is called " in t.messages[-1].content]
    assert renamed
    for test in renamed:
        new_name = test.messages[-1].content.split(" is called ")[1].split()[0]
        assert f"{new_name}(" in test.reference


def test_what_the_expert_says_is_right_under_every_condition(drawn: Tests) -> None:
    import asyncio

    from agentmill.domains.base import load_domain
    from simulation.agent_tests import Answer, measure

    flat = [test for tests in drawn.values() for test in tests]
    _, verdicts = asyncio.run(measure([Answer(test, test.reference) for test in flat], load_domain("automotive")))
    assert all(all(verdict.values()) for verdict in verdicts)


def test_a_stage_that_the_configuration_leaves_out_is_measured_with_its_defaults_on_the_hardware() -> None:
    from agentmill.config import ConfigError
    from cluster.config import read_config
    from cluster.training_benches import settings_of

    config = read_config(None, ["hardware=1xh200", "sft.max_length=256"])
    assert config.dpo is None
    assert settings_of(config, "dpo", None).worker.workers == 1
    assert settings_of(config, "sft", "cpu").worker.device == "cpu"
    assert settings_of(config, "sft", None).max_length == 256
    with pytest.raises(ConfigError, match="--stage stf: no stage of training has this name; did you mean sft"):
        settings_of(config, "stf", None)
