"""The stage `responses`: here the newest model is served as an engine, and the simulation asks it."""

from agentmill.runs import Run
from cluster import chain
from cluster.config import RunConfig
from cluster.engines import playing
from rayserve.settings import EngineSettings, ModelEngine
from simulation.models import ModelSettings

ENGINE = "student"


def run(run: Run, config: RunConfig) -> None:
    """Have the newest model of the run answer the drafter's prompts.

    Raises:
        UserError: when it cannot be served, or too many answers fail.
    """
    from simulation import responses

    folder = run.path("models", chain.newest(config))
    own = {"speculative", "sample_ranges"}  # a drafter, and ranges, are those of models that come later
    shared = {name: getattr(config.serve.engine, name) for name in EngineSettings.model_fields if name not in own}
    engine = ModelEngine(model=str(folder), **shared)
    with playing({ENGINE: engine}, ModelSettings(kind="engine", name=ENGINE)) as (model,):
        responses.run(run, config.responses, domain=config.domain, seed=config.seed, model=model)
