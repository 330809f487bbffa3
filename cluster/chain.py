"""The chain of models of a run: base -> expanded -> cpt -> sft -> dpo, each made from the newest one before it.

A stage whose settings are null is left out, and its model is not in the chain; a model's name is its folder under
models/ and its place among the figures (`evaluate.<name>`). A drafter is made for the newest model and is none of the
chain; nor is the newest model served otherwise, in 8 bits or with its drafter: a variant. Invariant: who needs "the
newest model" asks here.
"""

from typing import TYPE_CHECKING

from agentmill.config import ConfigError, nearest
from agentmill.runs import Run, RunError

if TYPE_CHECKING:
    from cluster.config import RunConfig

MADE = {"base": "base", "expand": "expanded", "cpt": "cpt", "sft": "sft", "dpo": "dpo"}  # stage -> its model
TRAINED = ("cpt", "sft", "dpo")
FITTED = (*TRAINED, "drafter")  # all that train on Ray and leave a step log
# ways to serve the newest model, the fastest last -> the stages that they need
VARIANTS = {"quantized": ("quantize",), "drafted": ("drafter",), "drafted_quantized": ("drafter", "quantize")}
QUANTIZED = "quantized"
DRAFTER, DRAFTER_QUANTIZED = "drafter", "drafter_quantized"  # the drafter's folders under models/
SAME_FUNCTION = {"expanded"}  # computes what the model before it computes, until it is trained
# stage -> the settings that are null where it is left out
SWITCHED_BY = {
    "expand": "expand",
    "cpt": "cpt",
    "dpo": "dpo",
    "responses": "drafter",
    "drafter": "drafter",
    "quantize": "quantize",
}


def left_out(config: "RunConfig", stage: str) -> bool:
    """Whether the configuration leaves a stage out: its settings are null."""
    return stage in SWITCHED_BY and getattr(config, SWITCHED_BY[stage]) is None


def left_out_of(run: Run, stage: str) -> bool:
    """Whether a run leaves a stage out, by its stored configuration, which another version may have written."""
    return stage in SWITCHED_BY and run.manifest["config"].get(SWITCHED_BY[stage]) is None


def model_stages(config: "RunConfig") -> list[str]:
    """The stages that make a model, in order."""
    return [stage for stage in MADE if not left_out(config, stage)]


def models(config: "RunConfig") -> list[str]:
    """The models that a run of this configuration makes, in order."""
    return [MADE[stage] for stage in model_stages(config)]


def newest(config: "RunConfig") -> str:
    """The model at the end of the chain: what is served, evaluated and shown unless another is named."""
    return models(config)[-1]


def variants(config: "RunConfig") -> list[str]:
    """The ways in which this configuration lets the newest model be served beside its own, the fastest last."""
    return [name for name, stages in VARIANTS.items() if not any(left_out(config, stage) for stage in stages)]


def parts_of(config: "RunConfig", name: str) -> list[str]:
    """The folders under models/ that a model or variant is served from, the one that answers first."""
    if name not in VARIANTS:
        return [name]
    in_8_bits = "quantize" in VARIANTS[name]
    answers = QUANTIZED if in_8_bits else newest(config)
    drafts = DRAFTER_QUANTIZED if in_8_bits and quantizes_drafter(config) else DRAFTER
    return [answers, drafts] if "drafter" in VARIANTS[name] else [answers]


def quantizes_drafter(config: "RunConfig") -> bool:
    """Whether the stage quantize brings a drafter to 8 bits too, which then drafts for the model in 8 bits."""
    return config.drafter is not None and config.quantize is not None and config.quantize.drafter


def stage_before(config: "RunConfig", stage: str) -> str:
    """The model stage that `stage` starts from: the newest one before it, for a stage outside the chain the last."""
    before = list(MADE)[: list(MADE).index(stage)] if stage in MADE else list(MADE)
    return [name for name in before if not left_out(config, name)][-1]


def start_of(config: "RunConfig", stage: str) -> str:
    """The model that `stage` starts from."""
    return MADE[stage_before(config, stage)]


def evaluated(config: "RunConfig") -> list[str]:
    """The models that `evaluate.models` asks for, in the order of the chain, and variants after them.

    `all` leaves out the expanded model before it is trained, which computes what the base computes, and all variants
    but the fastest.
    """
    asked = config.evaluate.models
    if asked == "final":
        return [newest(config)]
    if asked == "all":
        return [*(name for name in models(config) if name not in SAME_FUNCTION), *variants(config)[-1:]]
    return [name for name in (*models(config), *variants(config)) if name in asked]


def check_evaluated(config: "RunConfig") -> None:
    """Look that every model named in `evaluate.models` is one of the chain or a variant.

    Raises:
        ValueError: when one is not; says which there are.
    """
    asked, there = config.evaluate.models, [*models(config), *variants(config)]
    unknown = [name for name in asked if name not in there] if not isinstance(asked, str) else []
    if unknown:
        raise ValueError(f"evaluate.models: {_no_such_model(config, unknown[0])}")


def model_of(run: Run, config: "RunConfig", name: str | None = None) -> str:
    """The model or variant of that name in a finished part of a run, the newest model where none is named.

    Raises:
        ConfigError: when the run makes no model of that name.
        RunError: when it is not there yet; names the newest that is.
    """
    if name is not None and name not in (*models(config), *variants(config)):
        raise ConfigError(f"--stage {_no_such_model(config, name)}")
    chosen = name or newest(config)
    missing = [part for part in parts_of(config, chosen) if not (run.root / "models" / part).is_dir()]
    if missing:
        there = [one for one in models(config) if (run.root / "models" / one).is_dir()]
        instead = f", or take --stage {there[-1]}" if there else ""
        raise RunError(f"{run.root} has no models/{missing[0]} yet; finish it with `agentmill run`{instead}")
    return chosen


def _no_such_model(config: "RunConfig", name: str) -> str:
    there = [*models(config), *variants(config)]
    guess = nearest(name, there)
    meant = f"did you mean {guess}? " if guess else ""
    stage = next((stage for stage, made in MADE.items() if name == made), None)
    why = f" ({stage} is null, so that it is left out)" if stage and left_out(config, stage) else ""
    return f"{name} is no model of this run{why}; {meant}it makes {', '.join(there)}"
