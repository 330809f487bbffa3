"""One run's configuration: the settings of every stage in one strict model, read from YAML and `--set`.

Each stage's settings class lives beside its stage; here they only come together. Nothing here imports Ray or torch.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from agentmill.agents.settings import TeamSettings
from agentmill.config import Strict, load_yaml, nearest, override, validate
from agentmill.runs import Run
from cluster.base import BaseSettings
from rayserve.settings import ServeSettings
from raytrain.settings import SftSettings
from simulation.corpora import CorporaSettings
from simulation.evaluate import EvaluateSettings
from simulation.refine import RefineSettings
from simulation.simulate import SimulateSettings

DOMAINS = ("automotive",)


class DataSettings(Strict):
    """Real dialogues to mix in. `public_share` is their share of the training rows where a file is given."""

    public: Path | None = None
    public_share: float = Field(0.2, ge=0.0, lt=1.0)

    @field_validator("public")
    @classmethod
    def _exists(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("there is no such file; give a JSONL file of dialogues, plain or .gz")
        return value


class ReportSettings(Strict):
    """How many samples of the corpora and conversations the report shows."""

    samples: int = Field(8, ge=0, le=200)
    conversations: int = Field(3, ge=0, le=50)


class RunConfig(Strict):
    """Everything that a run depends on. Two runs with equal configuration, code and machine give equal artefacts."""

    name: str = Field("local", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0)
    domain: str = "automotive"
    system: TeamSettings = TeamSettings()
    data: DataSettings = DataSettings()
    simulate: SimulateSettings = SimulateSettings()
    refine: RefineSettings = RefineSettings()
    corpora: CorporaSettings = CorporaSettings()
    base: BaseSettings = BaseSettings()
    sft: SftSettings = SftSettings()
    serve: ServeSettings = ServeSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()

    @field_validator("domain")
    @classmethod
    def _known_domain(cls, value: str) -> str:
        if value not in DOMAINS:
            guess = nearest(value, DOMAINS)
            meant = f"did you mean {guess}? " if guess else ""
            raise ValueError(f"no such domain pack; {meant}there are: {', '.join(DOMAINS)}")
        return value

    def resolved(self) -> dict[str, Any]:
        """The whole configuration as JSON values, defaults included."""
        return self.model_dump(mode="json")


def read_config(path: Path, assignments: Iterable[str] = (), name: str | None = None) -> RunConfig:
    """Read a configuration file, apply `--set` assignments and `--name`, and check it.

    Raises:
        ConfigError: when the file, a key, a value or a type is wrong.
    """
    data: Mapping[str, Any] = override(load_yaml(path), assignments)
    if name is not None:
        data = {**data, "name": name}
    return validate(RunConfig, data, str(path))


def config_of(run: Run, assignments: Iterable[str] = ()) -> RunConfig:
    """The configuration that an existing run was made with, with `--set` assignments applied.

    Raises:
        ConfigError: when a key, a value or a type is wrong.
    """
    return validate(RunConfig, override(run.manifest["config"], assignments), str(run.root / "run.json"))
