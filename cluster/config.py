"""One run's configuration: the settings of every stage in one strict model, read from YAML and `--set`.

Each stage's settings class lives beside its stage; here they only come together. Nothing here imports Ray or torch.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from agentmill.agents.settings import TeamSettings
from agentmill.config import ConfigError, Strict, load_yaml, override, validate
from agentmill.domains.base import ALL, WorldSettings, load_domain
from agentmill.runs import Run
from cluster import chain
from cluster.base import BaseSettings
from rayserve.settings import ModelEngine, ServeSettings
from raytrain.hardware import TRAINING, HardwareSettings, read_hardware, under
from raytrain.settings import CptSettings, DpoSettings, DrafterSettings, ExpandSettings, QuantizeSettings, SftSettings
from raytrain.tracking import TrackingSettings
from simulation.corpora import CorporaSettings
from simulation.evaluate import EvaluateSettings
from simulation.gate import GateSettings
from simulation.judging import RefineSettings
from simulation.redteam import RedteamSettings
from simulation.responses import ResponsesSettings
from simulation.simulate import SimulateSettings

EngineName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]  # part of its URL


class DataSettings(Strict):
    """A file of real dialogues; `corpora.mixture` says what share of each corpus they have."""

    public: Path | None = None

    @field_validator("public")
    @classmethod
    def _exists(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("there is no such file; give a JSONL or Parquet file of dialogues")
        return value


class ReportSettings(Strict):
    """How many samples of the corpora and conversations the report shows."""

    samples: int = Field(8, ge=0, le=200)
    conversations: int = Field(3, ge=0, le=50)


class RunConfig(Strict):
    """Everything that a run depends on. Two runs with equal configuration, code and machine give equal artefacts.

    `domain` names a pack that ships, or a Python package that is installed or lies in the current directory. `mix`
    chooses among its scenarios: `all`, or a narrower choice that the pack offers, such as `core`. `engines` are vLLM
    engines by name, which the run starts for the stages whose models name them (`kind: engine`). `expand`, `cpt`,
    `dpo`, `drafter` and `quantize` are stages that a run may leave out: null does so. `hardware` is a mapping, the name
    of a file in configs/hardware or the path of another; what it chooses for `worker` lies under what a stage says.
    """

    name: str = Field("local", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    domain: str = Field("automotive", pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
    mix: str = ALL
    system: TeamSettings = TeamSettings()
    data: DataSettings = DataSettings()
    engines: dict[EngineName, ModelEngine] = {}
    simulate: SimulateSettings = SimulateSettings()
    gate: GateSettings = GateSettings()
    refine: RefineSettings = RefineSettings()
    corpora: CorporaSettings = CorporaSettings()
    base: BaseSettings = BaseSettings()
    expand: ExpandSettings | None = None
    cpt: CptSettings | None = None
    sft: SftSettings = SftSettings()
    dpo: DpoSettings | None = None
    responses: ResponsesSettings = ResponsesSettings()
    drafter: DrafterSettings | None = None
    quantize: QuantizeSettings | None = None
    hardware: HardwareSettings = HardwareSettings()
    tracking: TrackingSettings = TrackingSettings()
    serve: ServeSettings = ServeSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    redteam: RedteamSettings = RedteamSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _engines_are_there(self) -> "RunConfig":
        roles = {"simulate.teacher": self.simulate.teacher, "simulate.user": self.simulate.user}
        roles |= dict(zip(("refine.judge", "refine.second_look.model"), self.refine.models, strict=False))
        for role, model in roles.items():
            if model.kind == "engine" and model.name not in self.engines:
                known = ", ".join(self.engines) or "none"
                raise ValueError(f"{role}.name={model.name} is none of `engines` ({known}); add it there")
        for role, model in {"evaluate.user": self.evaluate.user, "redteam.model": self.redteam.model}.items():
            if model.kind == "engine":
                raise ValueError(
                    f"{role}.kind=engine: the student is served meanwhile, and a run serves one or the other; serve "
                    "this model elsewhere and give kind=endpoint and its url"
                )
        return self

    @model_validator(mode="after")
    def _evaluated_models_are_made(self) -> "RunConfig":
        chain.check_evaluated(self)
        return self

    def resolved(self) -> dict[str, Any]:
        """The whole configuration as JSON values, defaults included."""
        return self.model_dump(mode="json")


def read_config(path: Path | None, assignments: Iterable[str] = (), name: str | None = None) -> RunConfig:
    """Read a configuration file, apply `--set` assignments and `--name`, and check it, the domain pack included.

    Without a file everything has its default but what is assigned.

    Raises:
        ConfigError: when the file, a key, a value or a type is wrong, or the pack cannot be used or lacks the mix.
    """
    data: Mapping[str, Any] = override(load_yaml(path) if path else {}, assignments)
    if name is not None:
        data = {**data, "name": name}
    config = validate(RunConfig, _with_hardware(data), str(path or "the configuration"))
    load_domain(config.domain).source(config.mix)
    return config


def config_of(run: Run, assignments: Iterable[str] = ()) -> RunConfig:
    """The configuration that an existing run was made with, with `--set` assignments applied.

    The domain pack is not looked for: a run can be shown where its pack is not.

    Raises:
        ConfigError: when a key, a value or a type is wrong.
    """
    data = _with_hardware(override(run.manifest["config"], assignments))
    return validate(RunConfig, data, str(run.root / "run.json"))


def _with_hardware(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with the named hardware read, and its choices under the `worker` settings of the stages that
    train."""
    if data.get("hardware") is None:
        return data
    hardware = read_hardware(data["hardware"])
    chosen: dict[str, Any] = {}
    for stage in TRAINING:
        default = RunConfig.model_fields[stage].get_default(call_default_factory=True)
        given = data.get(stage, None if default is None else {})
        if given is not None:
            chosen[stage] = under(hardware, stage, given)
    return {**data, "hardware": hardware.model_dump(mode="json"), **chosen}


def check_worlds(config: RunConfig) -> None:
    """Look that the database of a run's worlds can be used and answers. It changes nothing.

    Raises:
        ConfigError: when it cannot, or the worlds are shared.
    """
    world = config.system.world
    if world.shared:
        raise ConfigError(
            "system.world.shared=true: a run judges each conversation by the world that it leaves, so each needs its "
            "own; leave it out here and give it to `agentmill serve`"
        )
    if world != WorldSettings():
        from agentmill.domains.database import check_database

        check_database(world)
