"""The stage graph: what each stage is for, what it needs, what it owns, and how it is called.

A stage's inputs are its settings, the completions of the stages before it and the code that does it, a domain pack of
the user's own included; their digest decides whether a finished stage still stands. Invariant: a stage writes only the
paths and figures that it owns here. What `needs_of` names for a stage is what its configuration makes it build on: a
stage that is left out is needed by nobody.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agentmill.config import ConfigError, nearest
from agentmill.domains.packs import pack_files
from agentmill.runs import Run, digest_json, digest_path
from cluster import chain
from cluster.config import RunConfig
from cluster.engines import engine_inputs, playing
from raytrain.settings import StageSettings
from raytrain.site import Site

MISSING = "missing"
MODEL = "the newest model"  # in a stage's `needs`: the stage that made the newest model before it
QUANTIZED_DRAFTER = "the drafter"  # in a stage's `needs`: the stage drafter, where its drafter is brought to 8 bits


@dataclass(frozen=True)
class Stage:
    """One stage. `sources` are the modules and packages whose code decides its result; `figures` dotted prefixes.

    `memory_gib` is what it needs free to start, beside Ray itself; `ray` says whether it needs a Ray session. `work` is
    the folder of a stage that does its rows one by one: what lies there was paid for, and is never thrown away unasked.
    `keeps` are owned folders that the stage itself sorts out by digest: other settings alone do not clear them.
    """

    name: str
    does: str
    run: Callable[[Run, RunConfig], None]
    settings: Callable[[RunConfig], dict[str, Any]]
    needs: tuple[str, ...]
    sources: tuple[str, ...]
    owns: tuple[str, ...]
    figures: tuple[str, ...]
    memory_gib: float = 1.0
    ray: bool = True
    work: str = ""
    keeps: tuple[str, ...] = ()


def _simulate(run: Run, config: RunConfig) -> None:
    from simulation import simulate

    with playing(config.engines, config.simulate.teacher, config.simulate.user) as (teacher, user):
        settings = config.simulate.model_copy(update={"teacher": teacher, "user": user})
        simulate.run(run, settings, domain=config.domain, system=config.system, seed=config.seed, mix=config.mix)


def _gate(run: Run, config: RunConfig) -> None:
    from cluster import gate

    gate.run(run, config)


def _refine(run: Run, config: RunConfig) -> None:
    from simulation import refine

    with playing(config.engines, *config.refine.models) as models:
        refine.run(run, config.refine.with_models(models), domain=config.domain, seed=config.seed)


def _corpora(run: Run, config: RunConfig) -> None:
    from simulation import corpora

    corpora.run(
        run,
        config.corpora,
        domain=config.domain,
        seed=config.seed,
        public=config.data.public,
    )


def _base(run: Run, config: RunConfig) -> None:
    from cluster import base

    base.run(run, config.base)


def _expand(run: Run, config: RunConfig) -> None:
    from raytrain import expand

    assert config.expand is not None
    expand.run(run, config.expand, start=chain.start_of(config, "expand"))


def _cpt(run: Run, config: RunConfig) -> None:
    from raytrain import cpt

    assert config.cpt is not None
    cpt.run(run, config.cpt, start=chain.start_of(config, "cpt"), seed=config.seed, site=_site(config))


def _sft(run: Run, config: RunConfig) -> None:
    from raytrain import sft

    sft.run(run, config.sft, start=chain.start_of(config, "sft"), seed=config.seed, site=_site(config))


def _dpo(run: Run, config: RunConfig) -> None:
    from raytrain import dpo

    assert config.dpo is not None
    dpo.run(run, config.dpo, start=chain.start_of(config, "dpo"), seed=config.seed, site=_site(config))


def _responses(run: Run, config: RunConfig) -> None:
    from cluster import drafting

    drafting.run(run, config)


def _drafter(run: Run, config: RunConfig) -> None:
    from raytrain.drafter import stage

    assert config.drafter is not None
    stage.run(run, config.drafter, start=chain.newest(config), seed=config.seed, site=_site(config))


def _quantize(run: Run, config: RunConfig) -> None:
    from raytrain.quantize import stage

    assert config.quantize is not None
    drafter = config.drafter if chain.quantizes_drafter(config) else None
    stage.run(run, config.quantize, start=chain.newest(config), drafter=drafter)


def _evaluate(run: Run, config: RunConfig) -> None:
    from cluster import evaluation

    evaluation.run(run, config)


def _report(run: Run, config: RunConfig) -> None:
    from cluster import report

    report.run(run, config.report)


def _site(config: RunConfig) -> Site:
    return Site(config.hardware, config.tracking)


def _common(config: RunConfig) -> dict[str, Any]:
    return {"domain": config.domain, "seed": config.seed}


def _system(config: RunConfig) -> dict[str, Any]:
    return {**_common(config), "mix": config.mix, "system": config.system.model_dump(mode="json")}


def _training(config: RunConfig, stage: str) -> dict[str, Any]:
    settings: StageSettings | None = getattr(config, stage)
    return {"seed": config.seed, stage: settings.deciding() if settings is not None else None}


def _data(config: RunConfig) -> dict[str, Any]:
    """What the files are that the corpora are mixed from."""
    files = {"public": config.data.public, "hand": config.corpora.dpo.hand}
    return {name: None if path is None else digest_path(path) for name, path in files.items()}


def _trained(name: str, does: str, run: Callable[[Run, RunConfig], None], corpus: str = "corpora") -> Stage:
    """A stage that trains models/<name> from the newest model before it, on what the stage `corpus` left."""
    return Stage(
        name=name,
        does=does,
        run=run,
        settings=lambda c: _training(c, name),
        needs=(corpus, MODEL),
        sources=("agentmill.runs", "raytrain"),
        owns=(f"models/{name}", f"checkpoints/{name}", f"logs/{name}.jsonl"),
        figures=(f"train.{name}", name),
        memory_gib=4.0,
        keeps=(f"checkpoints/{name}",),
    )


STAGES: tuple[Stage, ...] = (
    Stage(
        name="simulate",
        does="the user simulator talks to the teacher's system",
        run=_simulate,
        settings=lambda c: {
            **_system(c),
            "system": c.system.deciding(),
            "simulate": c.simulate.deciding(),
            **engine_inputs(c.engines, c.simulate.teacher, c.simulate.user),
        },
        needs=(),
        sources=("agentmill", "simulation"),
        owns=("simulate",),
        figures=("simulate",),
        work="simulate/.work",
    ),
    Stage(
        name="gate",
        does="the recorded plans say which ones the model evaluator must see",
        run=_gate,
        settings=lambda c: {
            "gate": c.gate.model_dump(mode="json", exclude={"shadow_share"}),
            "complexity_threshold": c.system.complexity_threshold,
        },
        needs=("simulate",),
        sources=("agentmill.plans", "simulation.gate", "simulation.judged", "cluster.gate"),
        owns=("gate",),
        figures=("gate",),
        memory_gib=0.3,
        ray=False,
    ),
    Stage(
        name="refine",
        does="the judge reads every call and mends what is wrong",
        run=_refine,
        settings=lambda c: {
            **_common(c),
            "refine": c.refine.deciding(),
            **engine_inputs(c.engines, *c.refine.models),
        },
        needs=("simulate",),
        sources=("agentmill", "simulation"),
        owns=("refine",),
        figures=("refine",),
        work="refine/.work",
    ),
    Stage(
        name="corpora",
        does="the traces become corpora: pretraining, tuning, preferences, drafter, calibration, evaluation",
        run=_corpora,
        settings=lambda c: {**_common(c), **_data(c), "corpora": c.corpora.model_dump(mode="json")},
        needs=("simulate", "refine"),
        sources=("agentmill", "simulation"),
        owns=("corpora",),
        figures=("corpora", "data"),
        ray=False,
    ),
    Stage(
        name="base",
        does="the small base model is put in place",
        run=_base,
        settings=lambda c: {"base": c.base.model_dump(mode="json"), "model": _base_digest(c)},
        needs=(),
        sources=("cluster.base",),
        owns=("models/base",),
        figures=("base",),
        memory_gib=0.1,
        ray=False,
    ),
    Stage(
        name="expand",
        does="new blocks that change nothing yet are put between those of the model",
        run=_expand,
        settings=lambda c: {"expand": c.expand.deciding() if c.expand is not None else None},
        needs=(MODEL,),
        sources=("agentmill.runs", "raytrain"),
        owns=("models/expanded",),
        figures=("train.expand",),
        memory_gib=0.5,
    ),
    _trained("cpt", "the model reads the domain's texts, each in its context (continual pretraining, Ray Train)", _cpt),
    _trained("sft", "the small model learns the agents' work (LoRA, DeepSpeed ZeRO, Ray Train)", _sft),
    _trained("dpo", "the small model learns which of two answers is better (LoRA, Ray Train)", _dpo),
    Stage(
        name="responses",
        does="the small model answers the drafter's prompts itself (vLLM on Ray Serve)",
        run=_responses,
        settings=lambda c: {
            **_common(c),
            "responses": c.responses.deciding() if c.drafter is not None else None,
            "engine": c.serve.engine.model_dump(mode="json", include={"dtype", "max_model_len"}),
        },
        needs=("corpora", MODEL),
        sources=("simulation.responses", "simulation.corpora.drafter", "cluster.drafting"),
        owns=("responses",),
        figures=("responses",),
        memory_gib=4.0,
    ),
    _trained(
        "drafter",
        "a drafter learns what the small model says next (EAGLE-3, Ray Train)",
        _drafter,
        corpus="responses",
    ),
    Stage(
        name="quantize",
        does="the small model and its drafter in 8 bits (llm-compressor)",
        run=_quantize,
        settings=lambda c: {"quantize": c.quantize.model_dump(mode="json") if c.quantize is not None else None},
        needs=("corpora", MODEL, QUANTIZED_DRAFTER),
        sources=("agentmill.runs", "raytrain"),
        owns=("models/quantized", "models/drafter_quantized", "checkpoints/quantize"),
        figures=("quantize",),
        memory_gib=2.0,
    ),
    Stage(
        name="evaluate",
        does="served, the models play held-out scenarios over HTTP",
        run=_evaluate,
        settings=lambda c: {
            **_system(c),
            "evaluate": {**c.evaluate.deciding(), "models": chain.evaluated(c)},
            "serve": c.serve.model_dump(mode="json", exclude={"port", "sessions_api"}),
            "teacher": c.simulate.model_dump(mode="json").get("teacher"),
            **engine_inputs(c.engines, c.simulate.teacher),
            "shadow_share": c.gate.shadow_share,
        },
        needs=("simulate", "gate", "corpora", *chain.MADE, "drafter", "quantize"),
        sources=("agentmill", "simulation", "rayserve", "cluster.evaluation"),
        owns=("evaluate",),
        figures=("evaluate",),
        memory_gib=5.0,
    ),
    Stage(
        name="report",
        does="everything that was measured, on one page",
        run=_report,
        settings=lambda c: {"report": c.report.model_dump(mode="json")},
        needs=("simulate", "gate", "refine", "corpora", *chain.MADE, "drafter", "quantize", "evaluate"),
        sources=(
            "cluster.report",
            "cluster.charts",
            "cluster.comparison",
            "cluster.evidence",
            "cluster.gate",
            "cluster.shown",
            "cluster.training",
            "cluster.view",
        ),
        owns=("report",),
        figures=("report",),
        memory_gib=0.3,
        ray=False,
    ),
)
NAMES = tuple(stage.name for stage in STAGES)


def stage_named(name: str) -> Stage:
    """The stage of that name.

    Raises:
        ConfigError: when there is none; names the nearest.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    guess = nearest(name, NAMES)
    meant = f"did you mean {guess}? " if guess else ""
    raise ConfigError(f"stage={name} is no stage; {meant}the stages are: {', '.join(NAMES)}")


def needs_of(stage: Stage, config: RunConfig) -> list[str]:
    """The stages that a stage builds on under this configuration; those that are left out are not among them."""
    names = [chain.stage_before(config, stage.name) if name == MODEL else name for name in stage.needs]
    if QUANTIZED_DRAFTER in names:
        names.remove(QUANTIZED_DRAFTER)
        names += ["drafter"] if chain.quantizes_drafter(config) else []
    return [name for name in names if not chain.left_out(config, name)]


def inputs_of(stage: Stage, run: Run, config: RunConfig) -> dict[str, Any]:
    """What the stage's result depends on. A stage before it that is not finished counts as None."""
    marks = {name: run.completed(name) for name in needs_of(stage, config)}
    return {
        "settings": stage.settings(config),
        "needs": {name: mark.digest if mark else None for name, mark in marks.items()},
        "code": code_digest(stage.sources),
        "pack": pack_digest(config.domain) if "agentmill" in stage.sources else None,
    }


def code_digest(sources: tuple[str, ...]) -> str:
    """Digest of the Python files (and templates) of modules and packages, found without importing them."""
    return digest_json([[name, [[p.name, digest_path(p)] for p in _files(name)]] for name in sources])


def pack_digest(domain: str) -> str | None:
    """Digest of a pack's files; None for one that ships with agentmill, "missing" for one that is not here."""
    try:
        files = pack_files(domain)
    except ConfigError:
        return MISSING
    return digest_json({name: digest_path(file) for name, file in files.items()}) if files else None


def _base_digest(config: RunConfig) -> str | None:
    from cluster.base import model_folder

    folder = model_folder(config.base)
    return digest_path(folder) if folder.is_dir() else None


def _files(module: str) -> list[Path]:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise AssertionError(f"stage source {module} is no module of this project")
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return [origin]
    return sorted(p for p in origin.parent.rglob("*") if p.suffix in {".py", ".j2"})
