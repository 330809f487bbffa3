"""The stage `evaluate`: serve a run's models as users would get them, and let held-out customers talk to each by HTTP.

The teacher plays the same scenarios first, in this process; then the models that `evaluate.models` asks for, one engine
after the other. Only here the sides meet: rayserve starts the system on a free port with its sessions open, simulation
plays and judges. Invariants: a served system is stopped before the next one starts and before the stage ends, whatever
happens; what is finished is not played again after a kill.
"""

from itertools import pairwise

from agentmill.log import say
from agentmill.runs import Run, atomic_write_text, now
from cluster import chain
from cluster.config import RunConfig
from cluster.engines import playing
from cluster.serving import served_as, served_system

TEACHER = "teacher"


def run(run: Run, config: RunConfig) -> None:
    """Evaluate the teacher and the served models on held-out scenarios, and compare neighbours in pairs.

    Raises:
        UserError: when a model cannot be served, or its gateway does not answer.
    """
    models = chain.evaluated(config)
    if not _finished(run, TEACHER):
        _teacher(run, config)
        _finish(run, TEACHER)
    for model in models:
        if not _finished(run, model):
            _served(run, config, model)
            _finish(run, model)
    for other, model in [*pairwise(models), (TEACHER, models[-1])]:
        _compare(run, model, other)


def _compare(run: Run, model: str, other: str) -> None:
    """Record how two evaluations differ, and say where the difference is one."""
    from simulation import paired

    found = paired.record(run, model, other)
    for measure, one in found.items():
        if one.p < paired.ALPHA:
            low, high = one.interval
            change = f"{one.difference:+.1%} [{low:+.1%}, {high:+.1%}]"
            say("evaluate", f"{model:<8} {measure:<28} {change} against {other}, n {one.n}, p {one.p:.2g}")
    if all(one.p >= paired.ALPHA for one in found.values()):
        say("evaluate", f"{model:<8} no difference from {other} is shown")


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


def _served(run: Run, config: RunConfig, model: str) -> None:
    from rayserve import serve
    from simulation import evaluate

    folder, engine = served_as(run, config, model)
    engine = engine.model_copy(update={"sample_ranges": 0.0})  # most models have no ranges, and all are timed
    settings = config.serve.model_copy(update={"port": 0, "sessions_api": True, "engine": engine})
    system = served_system(run, config)
    served = serve.start(settings, folder, domain=config.domain, system=system)
    try:
        evaluate.run(
            run,
            config.evaluate,
            domain=config.domain,
            system=system,
            seed=config.seed,
            base_url=served.base_url,
            stage=model,
            mix=config.mix,
        )
        run.record(f"evaluate.{model}.start_seconds", round(served.seconds, 2), unit="s")
    finally:
        served.stop()


def _finished(run: Run, stage: str) -> bool:
    return run.path("evaluate", f"{stage}.done").is_file()


def _finish(run: Run, stage: str) -> None:
    atomic_write_text(run.path("evaluate", f"{stage}.done"), now() + "\n")
