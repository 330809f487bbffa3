"""The stage `evaluate`: serve the student as users would get it, and let held-out customers talk to it over HTTP.

Only here the sides meet: rayserve starts the system on a free port with its sessions open, simulation plays and
judges. Invariant: whatever happens, the served system is stopped before the stage ends.
"""

from agentmill.log import say
from agentmill.runs import Run
from cluster.config import RunConfig

STAGE = "sft"


def run(run: Run, config: RunConfig) -> None:
    """Serve models/sft and play the held-out scenarios against it.

    Raises:
        UserError: when the student cannot be served, or too many conversations failed for reasons of the machine.
    """
    from rayserve import serve
    from simulation import evaluate

    settings = config.serve.model_copy(update={"port": 0, "sessions_api": True})
    served = serve.start(settings, run.root / "models" / STAGE, domain=config.domain, system=config.system)
    run.record(f"evaluate.{STAGE}.start_seconds", round(served.seconds, 2), unit="s")
    try:
        evaluate.run(
            run,
            config.evaluate,
            domain=config.domain,
            system=config.system,
            stage=STAGE,
            base_url=served.base_url,
            model=settings.gateway.model_name,
            seed=config.seed,
        )
    finally:
        served.stop()
        say("evaluate", "the served system is stopped")
