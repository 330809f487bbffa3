"""`agentmill serve`: one system in the foreground, on the loopback interface, stopped cleanly by Ctrl-C or SIGTERM.

Which settings and which model: a run's own and the newest of its chain, changed by `--config`, `--set`, `--stage`,
`--model`, and `--tuned` for what `agentmill tune serving` found.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from agentmill.agents.settings import TeamSettings
from agentmill.config import ConfigError, Strict, load_yaml, override, validate
from agentmill.domains.base import load_domain
from agentmill.lineage import require_memory
from agentmill.log import say
from agentmill.runs import Run, RunError
from cluster import chain
from cluster.config import RunConfig, config_of, read_config
from rayserve.settings import EngineSettings, Speculative

SERVE_GIB = 5.0
EXPERT_GIB = 1.0
TUNED = ("tune", "serving.yaml")
_ENGINE = "serve.engine."


class TunedServing(Strict):
    """What `agentmill tune serving` found: the model or variant that answers, and the engine's settings."""

    stage: str
    engine: EngineSettings


def settings_for(
    run: Run | None, config: Path | None, assignments: Sequence[str], model: Path | None, stage: str | None = None
) -> tuple[RunConfig, Path | None]:
    """The configuration to serve with, and the model folder (None where no engine is asked for).

    The folder is `model`, else the run's model named `stage`, else the newest of the run.

    Raises:
        ConfigError: when a key or value is wrong, an engine is asked for and no model was named, or two were.
        RunError: when the run has no such model yet.
    """
    if stage is not None and (model is not None or run is None):
        raise ConfigError(f"--stage {stage} names a model of the run; leave out --model and --config, or --stage")
    if config is not None:
        settings = read_config(config, assignments)
    elif run is not None:
        settings = config_of(run, assignments)
    else:
        raise AssertionError("neither a run nor a configuration")
    settings = settings.model_copy(update={"system": served_system(run, settings)})
    if settings.serve.model.kind != "engine":
        return settings, None
    if model is None and run is None:
        raise ConfigError(
            "serve.model.kind=engine needs a model; give --model FOLDER, a run, or serve.model.kind=expert"
        )
    if model is not None or run is None:
        return settings, model
    folder, engine = served_as(run, settings, chain.model_of(run, settings, stage))
    return settings.model_copy(update={"serve": settings.serve.model_copy(update={"engine": engine})}), folder


def tuned_for(run: Run, assignments: Sequence[str] = ()) -> tuple[RunConfig, Path]:
    """The configuration and the model folder that `agentmill tune serving` found best, `--set` assignments on top.

    Raises:
        ConfigError: when the file or an assignment is wrong.
        RunError: when the run was not tuned, or its models are gone.
    """
    file = run.path(*TUNED)
    if not file.is_file():
        raise RunError(f"{file} is not there; write it with `agentmill tune serving {run.root}`, or leave out --tuned")
    tuned = validate(TunedServing, load_yaml(file), str(file))
    of_engine = [one.strip().removeprefix(_ENGINE) for one in assignments if one.strip().startswith(_ENGINE)]
    config = config_of(run, [one for one in assignments if not one.strip().startswith(_ENGINE)])
    folder, own = served_as(run, config, chain.model_of(run, config, tuned.stage))
    found = override(tuned.engine.model_dump(mode="json"), of_engine)
    if found["speculative"] and found["speculative"]["model"] and own.speculative:
        found["speculative"]["model"] = own.speculative.model
    engine = validate(EngineSettings, found, f"{file} and --set")
    update = {"system": served_system(run, config), "serve": config.serve.model_copy(update={"engine": engine})}
    return config.model_copy(update=update), folder


def served_as(run: Run, config: RunConfig, name: str) -> tuple[Path, EngineSettings]:
    """The folder that a model or variant of the run answers from, and the engine's settings with its drafter."""
    answers, *drafters = (run.root / "models" / part for part in chain.parts_of(config, name))
    if not drafters or config.drafter is None:
        return answers, config.serve.engine
    drafting = Speculative(method="eagle3", tokens=config.drafter.draft_tokens, model=str(drafters[0]))
    return answers, config.serve.engine.model_copy(update={"speculative": drafting})


def served_system(run: Run | None, config: RunConfig) -> TeamSettings:
    """`config.system` with the gate that was calibrated on the run's own plans, where the run has one.

    The simulation asks the model evaluator about every plan; what is served asks above the calibrated threshold, and
    puts `gate.shadow_share` of the other plans to it in the shadow. A `system.complexity_threshold` other than the 0
    that plans are recorded with was chosen by hand for serving, and stays.
    """
    from simulation.gate import read_calibration

    system = config.system.model_copy(update={"shadow_share": config.gate.shadow_share})
    calibration = read_calibration(run) if run is not None else None
    if calibration is None or calibration.chosen is None or system.complexity_threshold != 0.0:
        return system
    gate = {"complexity_measure": calibration.measure, "complexity_threshold": calibration.threshold}
    return system.model_copy(update=gate)


def _gate(system: TeamSettings) -> str:
    """When the model evaluator is asked, in words."""
    if system.complexity_threshold == 0.0:
        return "gate: the model evaluator is asked about every plan"
    above = system.complexity_threshold
    asked = "never asked" if above is None else f"asked above a Halstead {system.complexity_measure} of {above:.1f}"
    return f"gate: the model evaluator is {asked}; {system.shadow_share:.0%} of the other plans in the shadow"


def serve_forever(settings: RunConfig, model: Path | None) -> None:
    """Start the system and stay until it is interrupted.

    Raises:
        UserError: when the domain pack, the worlds' database or the model is not usable, the port is busy, memory is
            short, or the system stops answering.
    """
    from rayserve.serve import check_worlds, checked_model, free_port, interrupted, start

    load_domain(settings.domain)
    free_port(settings.serve.port)  # said before Ray takes its seconds to start
    check_worlds(settings.system.world, settings.domain)
    if settings.serve.model.kind == "engine":
        checked_model(model)
    need = SERVE_GIB if model is not None else EXPERT_GIB
    require_memory(need, "serving", "close other programs, or lower serve.engine.cpu_kv_cache_gib or max_num_seqs")
    from cluster.session import ray_session

    say("serve", _gate(settings.system))
    with tempfile.TemporaryDirectory(prefix="agentmill-serve-") as folder:
        say("serve", "starting a local Ray session")
        with ray_session(record=Path(folder, "session.json")):
            served = start(settings.serve, model, domain=settings.domain, system=settings.system)
            say("serve", f"talk to it with `agentmill chat --url {served.base_url}`; Ctrl-C stops it")
            interrupted(served)
    say("serve", "stopped")
