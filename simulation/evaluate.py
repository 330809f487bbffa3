"""The stage `evaluate`: held-out scenarios played against a system, and single agents on held-out calls.

    run          the served student, over HTTP, through the gateway that users talk to
    run_teacher  the teacher's system in this process, on the same scenarios and the same calls

Success is decided by the domain from the final world and the rules, never from text. A conversation that failed for
technical reasons counts as not successful and is counted apart. A model that can do nothing is a result too: safe
replies are no technical failure, and it is spared most of a large evaluation (`probe`). Figures: `evaluate.<stage>.*`;
conversations, turns and calls (with every prompt) as Parquet under evaluate/<stage>/. A finished conversation is kept
at once, so that an evaluation that was killed goes on with the others.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationError

from agentmill.agents.gate import GateCounts
from agentmill.agents.settings import TeamSettings
from agentmill.agents.team import Team
from agentmill.config import Strict, UserError
from agentmill.domains.base import ALL, Assessment, Domain, Scenario, ScenarioSource, load_domain
from agentmill.log import duration, progress, say
from agentmill.models.chat import ChatModel
from agentmill.plans.sandbox import Sandbox
from agentmill.runs import Run, atomic_dir, wilson
from simulation.agent_tests import AgentTest, Answer, Marks, ask_all, draw_tests, measure, result_table
from simulation.conversation import TurnFailed, play
from simulation.gateway_client import GatewayClient, ServedAgentModel
from simulation.models import ModelSettings, build_model, closing
from simulation.rolled import Rolled
from simulation.rollout import converse, rolled, stopped
from simulation.scenarios import conversation_sid
from simulation.tables import column_by_sid, conversation_tables, read_table, write_table

TEACHER = "teacher"
HOPELESS = 0.9


class EvaluationFailed(UserError):
    """Too much went wrong technically for the figures to say anything about the model; none is recorded."""


Player = Callable[[Scenario, str], Awaitable[Rolled]]


class EvaluateSettings(Strict):
    """How many held-out scenarios and agent calls, who plays the customer, how many at a time.

    `models` says which models of the run are served and played, the teacher always beside them: the `final` one, `all`
    that were trained or trained from, or a list of names. A model that completes none of the first `probe` scenarios
    and gives hardly anything but safe replies is played no further, and its figures are of those.
    Up to `max_error_share` of the conversations, and of the calls, may fail technically (they count as wrong); beyond
    that it is the serving that failed and not the model.
    """

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({"conversation_timeout_s", "max_error_share"})

    models: Literal["final", "all"] | Annotated[tuple[str, ...], Field(min_length=1)] = "final"
    scenarios: int = Field(50, ge=1)
    probe: int = Field(50, ge=1)
    agent_calls: int = Field(200, ge=0)
    user: ModelSettings = ModelSettings()
    concurrency: int = Field(8, ge=1)
    conversation_timeout_s: float = Field(300.0, gt=0.0)
    max_error_share: float = Field(0.1, ge=0.0, le=1.0)


def run(
    run: Run, settings: EvaluateSettings, *, domain: str, system: TeamSettings, seed: int, base_url: str,
    stage: str, mix: str = ALL,
) -> None:  # fmt: skip
    """Evaluate the system served at `base_url` as `stage`; records `evaluate.<stage>.*`.

    Raises:
        GatewayError: when no gateway with a sessions API answers there.
    """
    asyncio.run(_run_served(run, settings, load_domain(domain), system, seed, base_url, stage, mix))


def run_teacher(
    run: Run, settings: EvaluateSettings, *, domain: str, system: TeamSettings, seed: int, teacher: ModelSettings,
    mix: str = ALL,
) -> None:  # fmt: skip
    """Evaluate the teacher beside the student, in this process; records `evaluate.teacher.*`."""
    asyncio.run(_run_teacher(run, settings, load_domain(domain), system, seed, teacher, mix))


def evaluation_scenarios(run: Run, source: ScenarioSource, count: int, seed: int) -> list[Scenario]:
    """Held-out scenarios of this run's evaluation: none of them was simulated, whatever split it was in."""
    simulated = set(column_by_sid(run.path("simulate", "conversations"), "scenario").values())
    drawn = source(2 * count, (seed + 1) * 7919, "heldout")
    fresh = {scenario.sid: scenario for scenario in drawn if scenario.sid not in simulated}
    return list(fresh.values())[:count]


async def _run_served(
    run: Run, settings: EvaluateSettings, domain: Domain, system: TeamSettings, seed: int, base_url: str, stage: str,
    mix: str,
) -> None:  # fmt: skip
    user = build_model(settings.user, domain)
    async with closing(user), GatewayClient(base_url, timeout_s=settings.conversation_timeout_s) as client:

        async def over_http(scenario: Scenario, sid: str) -> Rolled:
            return await _converse_over_http(client, user, scenario, domain, sid=sid, speaker=settings.user)

        await _evaluate(run, settings, domain, system, seed, stage, over_http, ServedAgentModel(client), mix)


async def _run_teacher(
    run: Run, settings: EvaluateSettings, domain: Domain, system: TeamSettings, seed: int, teacher: ModelSettings,
    mix: str,
) -> None:  # fmt: skip
    user, model = build_model(settings.user, domain), build_model(teacher, domain)
    async with closing(user, model), Sandbox(1) as sandbox:
        team = Team.local(domain, model, sandbox, system)

        async def in_process(scenario: Scenario, sid: str) -> Rolled:
            return await converse(team, user, scenario, sid=sid, seed=seed, speaker=settings.user)

        await _evaluate(run, settings, domain, system, seed, TEACHER, in_process, model, mix)


async def _evaluate(
    run: Run, settings: EvaluateSettings, domain: Domain, system: TeamSettings, seed: int, stage: str,
    player: Player, model: ChatModel, mix: str,
) -> None:  # fmt: skip
    """Play the scenarios, ask the agents, write and record both."""
    began = time.monotonic()
    scenarios = evaluation_scenarios(run, domain.source(mix), settings.scenarios, seed)
    kept = run.path("evaluate", f"{stage}.partial.jsonl")
    done = await play_all(player, scenarios, settings, stage, kept)
    _require_few_errors([d.conversation.error for d in done], settings, stage, "conversations")
    tests = _agent_tests(run, settings, seed)
    answers = await ask_all(
        model, tests, system, concurrency=4 * settings.concurrency, seed=seed, label=f"eval {stage}"
    )
    _require_few_errors([answer.error for answer in answers], settings, stage, "agent calls")
    measures, marks = await measure(answers, domain)
    _write(run, stage, done, answers, marks)
    _record_conversations(run, stage, done, time.monotonic() - began)
    for name, value in measures.items():
        run.record(f"evaluate.{stage}.{name}", value.value, n=value.n, interval=value.interval)
    run.record(f"evaluate.{stage}.call_errors", sum(bool(answer.error) for answer in answers), n=len(answers))
    kept.unlink(missing_ok=True)
    for name, value in measures.items():
        low, high = value.interval
        say("evaluate", f"{stage:<8} {name:<28} {value.value:7.1%}  n {value.n:>4}  [{low:.1%}, {high:.1%}]")


async def _converse_over_http(
    client: GatewayClient, user: ChatModel, scenario: Scenario, domain: Domain, *, sid: str, speaker: ModelSettings
) -> Rolled:
    """Play one scenario in a session of its own. A server that fails ends the conversation, not the evaluation."""
    began = time.perf_counter()
    try:
        session = await client.open(scenario.world_seed)
        played = await play(
            lambda utterance: client.turn(session, utterance, scenario.seed % 2**31),
            user,
            scenario,
            domain,
            prompts=speaker.prompts,
            temperature=speaker.temperature,
            switch=partial(client.switch, session),
        )
        if played.status == "error":
            unknown = Assessment(success=False)
            seconds = time.perf_counter() - began
            return rolled(played, scenario, sid=sid, world={}, assessment=unknown, seconds=seconds)
        world = await client.world(session)
        await client.close(session)
    except TurnFailed as error:
        return stopped(scenario, sid, str(error), time.perf_counter() - began)
    assessment = domain.assess(scenario, world)
    return rolled(played, scenario, sid=sid, world=world, assessment=assessment, seconds=time.perf_counter() - began)


async def play_all(
    player: Player, scenarios: list[Scenario], settings: EvaluateSettings, stage: str, kept: Path
) -> list[Rolled]:
    """Every scenario once, `concurrency` at a time, in the order given; what `kept` holds is not played again.

    The first `probe` are played first; a model that can do nothing is spared the others.
    """
    done = _read_kept(kept)
    free = asyncio.Semaphore(settings.concurrency)

    async def one(scenario: Scenario) -> Rolled:
        sid = conversation_sid(scenario, stage)
        if sid not in done:
            async with free:
                done[sid] = await _timed(player, scenario, sid, settings.conversation_timeout_s)
            with kept.open("a", encoding="utf-8") as stream:
                stream.write(done[sid].model_dump_json() + "\n")
        bar.advance(1, success=sum(d.conversation.success for d in done.values()) / len(done))
        return done[sid]

    with progress(f"eval {stage}", len(scenarios), "conversations") as bar:
        probed = await asyncio.gather(*map(one, scenarios[: settings.probe]))
        rest = scenarios[settings.probe :]
        if rest and _can_do_nothing(probed):
            say(
                "evaluate", f"{stage:<8} completes none of {len(probed)} and can do nothing: {len(rest)} are not played"
            )
            rest = []
        return [*probed, *await asyncio.gather(*map(one, rest))]


async def _timed(player: Player, scenario: Scenario, sid: str, timeout_s: float) -> Rolled:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            return await player(scenario, sid)
    except TimeoutError:
        error = f"not finished within conversation_timeout_s={timeout_s:g}"
        return stopped(scenario, sid, error, time.perf_counter() - began)


def _can_do_nothing(played: list[Rolled]) -> bool:
    """Whether nothing succeeded, nothing failed technically, and HOPELESS of the turns ended in the safe reply."""
    safe = [turn.status == "safe_reply" for d in played for turn in d.turns]
    idle = all(not d.conversation.success and d.conversation.status != "error" for d in played)
    return idle and sum(safe) >= HOPELESS * len(safe)


def _require_few_errors(errors: list[str], settings: EvaluateSettings, stage: str, unit: str) -> None:
    failed = [error for error in errors if error]
    if len(failed) > settings.max_error_share * len(errors):
        raise EvaluationFailed(
            f"evaluate.{stage}: {len(failed)} of {len(errors)} {unit} failed technically, more than "
            f"evaluate.max_error_share={settings.max_error_share:g} allows; the first: {failed[0]}; "
            "mend the cause and run again (what succeeded is kept)"
        )


def _read_kept(kept: Path) -> dict[str, Rolled]:
    """Conversations that an earlier, killed evaluation finished; failed ones and a half-written line are left out."""
    done: dict[str, Rolled] = {}
    for line in kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else []:
        try:
            found = Rolled.model_validate_json(line)
        except ValidationError:
            continue
        if found.conversation.status != "error":
            done[found.conversation.sid] = found
    return done


def _agent_tests(run: Run, settings: EvaluateSettings, seed: int) -> list[AgentTest]:
    seeds = column_by_sid(run.path("simulate", "conversations"), "world_seed")
    heldout = read_table(run.path("corpora", "sft", "heldout.parquet"))
    return draw_tests(heldout, seeds, settings.agent_calls, seed)


def _write(run: Run, stage: str, done: list[Rolled], answers: list[Answer], marks: list[Marks]) -> None:
    tables = conversation_tables(
        [d.conversation for d in done], [t for d in done for t in d.turns], [c for d in done for c in d.calls]
    )
    with atomic_dir(run.path("evaluate", stage)) as folder:
        for name, table in tables.items():
            write_table(table, folder / name / "part-00000.parquet")
        write_table(result_table(answers, marks), folder / "agents.parquet")


def _record_conversations(run: Run, stage: str, done: list[Rolled], seconds: float) -> None:
    count = len(done)
    won = sum(d.conversation.success for d in done)
    turns = [turn for d in done for turn in d.turns]
    safe = sum(turn.status == "safe_reply" for turn in turns)
    failed = sum(d.conversation.status == "error" for d in done)
    record = f"evaluate.{stage}"
    run.record(f"{record}.success", won / count, n=count, interval=wilson(won, count))
    run.record(f"{record}.errors", failed / count, n=count, interval=wilson(failed, count))
    run.record(f"{record}.safe_replies", safe / max(1, len(turns)), n=len(turns), interval=wilson(safe, len(turns)))
    run.record(f"{record}.turns", len(turns), unit="turns")
    run.record(f"{record}.calls", sum(len(d.calls) for d in done), unit="calls")
    run.record(f"{record}.seconds", round(seconds, 3), unit="s")
    for name, gate in GateCounts(turn.gate for turn in turns).rates().items():
        run.record(f"{record}.gate.{name}", gate.value, n=gate.n, interval=gate.interval)
    if turns:
        ordered = sorted(turn.latency_s for turn in turns)
        for name, share in (("p50", 0.5), ("p90", 0.9)):
            seconds_at = ordered[int(share * (len(ordered) - 1))]
            run.record(f"{record}.turn_seconds.{name}", seconds_at, n=len(ordered), unit="s")
    low, high = wilson(won, count)
    shown = f"{won}/{count} = {won / count:.1%} [{low:.1%}, {high:.1%}]"
    say("evaluate", f"{stage:<8} success {shown}, {duration(seconds)}")
