"""Doing a run: the stages in order, each skipped when it still stands, gone on with when it was killed.

Before a stage starts, `stages/<stage>.running.json` says from which inputs; where an earlier attempt with *other*
inputs left work behind, that work is removed first. Unfinished rows of `simulate` and `refine`, which may have cost
money, are never removed so: the run is refused before anything is done, with what differs, until the user goes back,
takes another run or sets them aside (`--fresh`). A *finished* stage whose inputs changed is done again. A stage that
the configuration leaves out is passed by, and what it made before is set aside, so that nobody takes it for a part of
this run. Invariant: what a stage finds in its folders was made from the very inputs it is about to use, and a mark is
written only after its last artefact is in place.
"""

import fcntl
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentmill.config import ConfigError, differences
from agentmill.lineage import require_memory
from agentmill.log import duration, say
from agentmill.runs import Run, RunError, atomic_write_text, digest_json, now
from cluster import chain
from cluster.config import RunConfig
from cluster.stages import MISSING, STAGES, Stage, inputs_of, needs_of, stage_named
from simulation.claim import has_rows, refusal

BEAT_S = 5.0
ASKED = "asked for with --from"


@dataclass(frozen=True)
class Attempt:
    """The newest attempt at a stage that is not finished: its inputs and the seconds of it and those before it."""

    inputs: dict[str, Any]
    seconds: float
    attempts: int
    pid: int


@dataclass(frozen=True)
class Decision:
    """Whether a stage is done, and why: `verdict` is done, resume, again, new, refused."""

    verdict: str
    reason: str
    inputs: dict[str, Any]
    digest: str


def execute(
    run: Run, config: RunConfig, *, first: str | None = None, last: str | None = None, fresh: Sequence[str] = ()
) -> list[str]:
    """Do the stages of a run from `first` (done again in any case) to `last`; returns the names of those done.

    What the stages in `fresh` have done so far, finished or not, is moved into the run's folder `aside` first.

    Raises:
        RunError: when another process works on this run, a stage before `first` is not finished, or unfinished rows
            of another configuration are in the way.
        UserError: whatever a stage says that the user can put right.
    """
    chosen = select(run, config, first, last)
    done: list[str] = []
    with lock(run), ExitStack() as stack:
        ray_started = False
        for name in fresh:
            set_aside(run, stage_named(name))
        refuse_mixing(run, config, chosen, force=first is not None)
        _pass_by(run, config)
        for stage in chosen:
            decision = decide(run, config, stage, force=first is not None)
            if decision.verdict == "done":
                mark = run.completed(stage.name)
                say(stage.name, f"done already ({duration(mark.seconds if mark else 0.0)}), skipped")
                continue
            if stage.ray and not ray_started:
                _start_ray(run, stack)
                ray_started = True
            _do(run, config, stage, decision)
            done.append(stage.name)
    return done


def select(run: Run, config: RunConfig, first: str | None, last: str | None) -> list[Stage]:
    """The stages from `first` to `last`, both included; those before `first` must be finished.

    Raises:
        ConfigError: when there is no such stage, or the configuration leaves it out.
        RunError: when `first` is after `last`, or a stage before `first` is not finished.
    """
    order = [stage for stage in STAGES if not chain.left_out(config, stage.name)]
    start = order.index(_present(config, first)) if first else 0
    end = order.index(_present(config, last)) if last else len(order) - 1
    if start > end:
        raise RunError(f"--from {first} comes after --until {last}; the order is {', '.join(s.name for s in order)}")
    for stage in order[:start]:
        if run.completed(stage.name) is None:
            raise RunError(f"--from {first}: the stage {stage.name} before it is not finished; start without --from")
    return order[start : end + 1]


def _present(config: RunConfig, name: str) -> Stage:
    stage = stage_named(name)
    if chain.left_out(config, name):
        raise ConfigError(f"{name} is null in the configuration, so that the stage is left out; give it settings")
    return stage


def decide(run: Run, config: RunConfig, stage: Stage, *, force: bool = False) -> Decision:
    """Look whether the stage still stands, and say why not."""
    inputs = inputs_of(stage, run, config)
    digest = digest_json(inputs)
    mark, attempt = run.completed(stage.name), read_attempt(run, stage.name)
    if mark is not None and not force:
        if mark.inputs_digest == digest:
            return Decision("done", "nothing changed", inputs, digest)
        return Decision("again", "; ".join(_changes(mark.info.get("inputs"), inputs)), inputs, digest)
    if mark is not None:
        return Decision("again", ASKED, inputs, digest)
    if attempt is None:
        return Decision("new", "", inputs, digest)
    if digest_json(attempt.inputs) == digest:
        return Decision("resume", f"attempt {attempt.attempts + 1}", inputs, digest)
    verdict = "refused" if _has_rows(run, stage) else "again"
    return Decision(verdict, "; ".join(_changes(attempt.inputs, inputs)), inputs, digest)


def refuse_mixing(run: Run, config: RunConfig, chosen: Sequence[Stage], *, force: bool) -> None:
    """Look, before anything is done, whether a stage would meet unfinished rows of another configuration.

    Raises:
        RunError: when one would; it says what differs and what can be done.
    """
    again: set[str] = set()
    for stage in chosen:
        decision = decide(run, config, stage, force=force)
        redone = sorted(again & set(needs_of(stage, config)))
        changed = [decision.reason] if decision.verdict == "refused" else []
        changed += [f"{name} would be done again" for name in redone if decision.verdict == "resume"]
        if changed and _has_rows(run, stage):
            raise RunError(refusal(stage.name, run.root / stage.work, changed))
        if redone or decision.verdict == "again":
            again.add(stage.name)


def set_aside(run: Run, stage: Stage) -> None:
    """Move what a stage has done so far, finished or not, into `aside/<stage>-<number>`, as if it had never begun."""
    there = [run.root / owned for owned in stage.owns if (run.root / owned).exists()]
    if there:
        target = run.path("aside", f"{stage.name}-{len(list(run.root.glob(f'aside/{stage.name}-*'))):03d}", "x").parent
        for path in there:
            moved = target / path.relative_to(run.root)
            moved.parent.mkdir(parents=True, exist_ok=True)
            path.rename(moved)
        say(stage.name, f"what was there is in {target}")
    run.reopen(stage.name)
    _attempt_file(run, stage.name).unlink(missing_ok=True)
    for prefix in (*stage.figures, f"run.stage.{stage.name}"):
        run.forget(prefix)


def _pass_by(run: Run, config: RunConfig) -> None:
    """Say which stages are left out, and set aside what an earlier configuration made of them."""
    for stage in STAGES:
        if chain.left_out(config, stage.name):
            say(stage.name, f"left out: {stage.name} is null in the configuration")
            set_aside(run, stage)


def _has_rows(run: Run, stage: Stage) -> bool:
    return bool(stage.work) and has_rows(run.root / stage.work)


def read_attempt(run: Run, stage: str) -> Attempt | None:
    """The unfinished attempt at a stage, or None."""
    file = run.root / "stages" / f"{stage}.running.json"
    return Attempt(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


@contextmanager
def lock(run: Run) -> Iterator[None]:
    """Keep other processes away from this run. The lock is the kernel's: it ends with us, even when we are killed.

    Raises:
        RunError: when another process holds it; names that process.
    """
    path = run.path("run.lock")
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = json.loads(stream.read() or "{}")
            raise RunError(
                f"{run.root} is in use by process {holder.get('pid', '?')} on {holder.get('host', '?')} since "
                f"{holder.get('since', '?')}; wait for it, stop it, or give this run another --name"
            ) from None
        stream.truncate(0)
        stream.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now()}))
        stream.flush()
        yield


def _start_ray(run: Run, stack: ExitStack) -> None:
    from cluster.session import ray_session

    say("ray", "starting a local session")
    stack.enter_context(ray_session(record=run.path("session.json"), logs=run.path("logs", "ray")))


def _do(run: Run, config: RunConfig, stage: Stage, decision: Decision) -> None:
    require_memory(stage.memory_gib, f"the stage {stage.name}", _memory_remedy(stage))
    before = _prepare(run, stage, decision)
    with _timed(run, stage, decision, before) as clock:
        stage.run(run, config)
    mark = run.complete(stage.name, decision.digest, clock.seconds(), {"inputs": decision.inputs})
    _attempt_file(run, stage.name).unlink(missing_ok=True)
    _record_seconds(run, stage, mark.seconds)
    say(stage.name, f"finished in {duration(mark.seconds)}")


def _prepare(run: Run, stage: Stage, decision: Decision) -> Attempt | None:
    """Say what is about to happen, and remove what other inputs had made. Returns the attempt that is gone on with."""
    attempt = read_attempt(run, stage.name)
    if decision.verdict == "resume" and attempt is not None:
        say(stage.name, f"{stage.does}; going on where it was stopped ({decision.reason})")
        return attempt
    if decision.verdict == "again":
        say(stage.name, f"{stage.does}; done again: {decision.reason}")
    else:
        say(stage.name, stage.does)
    run.reopen(stage.name)
    kept = () if decision.reason == ASKED else stage.keeps
    for owned in stage.owns:
        path = run.root / owned
        if owned in kept:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for prefix in (*stage.figures, f"run.stage.{stage.name}"):
        run.forget(prefix)
    return None


class _Clock:
    """Seconds of this attempt and those before it, written down as they pass."""

    def __init__(self, path: Path, decision: Decision, before: Attempt | None) -> None:
        self._path, self._inputs = path, decision.inputs
        self._earlier = before.seconds if before else 0.0
        self._attempts = before.attempts + 1 if before else 1
        self._start = time.monotonic()

    def seconds(self) -> float:
        return self._earlier + time.monotonic() - self._start

    def write(self) -> None:
        state = {"inputs": self._inputs, "seconds": self.seconds(), "attempts": self._attempts, "pid": os.getpid()}
        atomic_write_text(self._path, json.dumps(state))


@contextmanager
def _timed(run: Run, stage: Stage, decision: Decision, before: Attempt | None) -> Iterator[_Clock]:
    clock = _Clock(_attempt_file(run, stage.name), decision, before)
    clock.write()
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_S):
            clock.write()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield clock
    finally:
        stop.set()
        thread.join()
        clock.write()


def _record_seconds(run: Run, stage: Stage, seconds: float) -> None:
    """The stage's seconds, and those of the whole run so far. The report shows the sum, so it is no part of it."""
    run.record(f"run.stage.{stage.name}.seconds", round(seconds, 2), unit="s")
    if stage.name == "report":
        return
    marks = [run.completed(other.name) for other in STAGES if other.name != "report"]
    run.record("run.seconds", round(sum(mark.seconds for mark in marks if mark), 2), unit="s")


def _changes(old: Any, new: dict[str, Any]) -> Sequence[str]:
    if not isinstance(old, dict):
        return ["its inputs are not recorded"]
    lines = [line.removeprefix("settings.") for line in differences(old.get("settings"), new["settings"])]
    before, now_needed = old.get("needs", {}), new["needs"]
    lines += [f"{name} was done again" for name in now_needed if name in before and before[name] != now_needed[name]]
    lines += [f"it builds on {name} now" for name in now_needed if name not in before]
    lines += [f"it builds on {name} no more" for name in before if name not in now_needed]
    if old.get("code") != new["code"]:
        lines.append("its code changed")
    if old.get("pack") != new.get("pack"):
        lost = "the domain pack cannot be found from this folder"
        lines.append(lost if new.get("pack") == MISSING else "the domain pack changed")
    return lines or ["its inputs changed"]


def _attempt_file(run: Run, stage: str) -> Path:
    return run.path("stages", f"{stage}.running.json")


def _memory_remedy(stage: Stage) -> str:
    if stage.name in chain.FITTED:
        return f"close other programs, or lower {stage.name}.worker.workers or {stage.name}.tokens_per_batch"
    if stage.name == "evaluate":
        return "close other programs, or lower serve.engine.cpu_kv_cache_gib or serve.engine.max_num_seqs"
    return "close other programs or use a larger machine"
