"""The stage `evaluate`: serve the student as users would get it, and let held-out customers talk to it over HTTP.

The teacher plays the same scenarios first, in this process. Only here the sides meet: rayserve starts the system on a
free port with its sessions open, simulation plays and judges. Invariants: the served system is stopped before the
stage ends, whatever happens; a half that is finished is not played again after a kill.
"""

from agentmill.runs import Run, atomic_write_text, now
from cluster.config import RunConfig
from cluster.engines import playing
from cluster.serving import served_system

STUDENT, TEACHER = "sft", "teacher"


def run(run: Run, config: RunConfig) -> None:
    """Evaluate the teacher and the served student on held-out scenarios.

    Raises:
        UserError: when the student cannot be served, or its gateway does not answer.
    """
    if not _finished(run, TEACHER):
        _teacher(run, config)
        _finish(run, TEACHER)
    if not _finished(run, STUDENT):
        _student(run, config)
        _finish(run, STUDENT)


def _teacher(run: Run, config: RunConfig) -> None:
    from simulation import evaluate

    with playing(config.engines, config.simulate.teacher) as (teacher,):
        evaluate.run_teacher(
            run,
            config.evaluate,
            domain=config.domain,
            system=config.system,
            seed=config.seed,
            teacher=teacher,
            mix=config.mix,
        )


def _student(run: Run, config: RunConfig) -> None:
    from rayserve import serve
    from simulation import evaluate

    settings = config.serve.model_copy(update={"port": 0, "sessions_api": True})
    system = served_system(run, config)
    served = serve.start(settings, run.root / "models" / STUDENT, domain=config.domain, system=system)
    try:
        evaluate.run(
            run,
            config.evaluate,
            domain=config.domain,
            system=system,
            seed=config.seed,
            base_url=served.base_url,
            stage=STUDENT,
            mix=config.mix,
        )
        run.record(f"evaluate.{STUDENT}.start_seconds", round(served.seconds, 2), unit="s")
    finally:
        served.stop()


def _finished(run: Run, stage: str) -> bool:
    return run.path("evaluate", f"{stage}.done").is_file()


def _finish(run: Run, stage: str) -> None:
    atomic_write_text(run.path("evaluate", f"{stage}.done"), now() + "\n")
