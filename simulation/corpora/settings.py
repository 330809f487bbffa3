"""What becomes of the traces: the settings of the stage `corpora`, the mixture of every corpus among them.

The mixture: the traces are taken whole, and of every other source so much is drawn that it has its share of the
training rows. A share that is left empty (`null`) takes all that the source has. Nothing heavy is imported here.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from agentmill.config import Strict
from simulation.models import ModelSettings

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Context = Literal["metadata", "preceding", "model"]
PersonalKind = Literal["person", "phone", "email", "plate", "vin", "card", "iban", "code"]


class Shares(Strict):
    """The shares of one corpus by source; the traces get the rest."""

    @model_validator(mode="after")
    def _leave_some(self) -> "Shares":
        total = sum(share for share in self.asked.values() if share is not None)
        if total >= 1.0:
            raise ValueError(f"the shares add up to {total:g} and leave nothing for the traces; keep them below 1")
        return self

    @property
    def asked(self) -> dict[str, float | None]:
        """The share of each source; None takes all that it has."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class WithPublic(Shares):
    """Real dialogues beside the traces, where `data.public` names a file of them."""

    public: Share = 0.2


class CptShares(WithPublic):
    """The pack's documents and real dialogues beside the dialogues of the traces."""

    documents: Share | None = None


class DpoShares(Shares):
    """Pairs that people made beside the judged ones."""

    hand: Share | None = None


class Mixture(Strict):
    """One specification for all corpora. Shares are of training rows, or of their characters, which are near tokens."""

    by: Literal["rows", "characters"] = "rows"
    cpt: CptShares = CptShares()
    sft: WithPublic = WithPublic()
    dpo: DpoShares = DpoShares()
    drafter: WithPublic = WithPublic()
    calibration: WithPublic = WithPublic()


class NearSettings(Strict):
    """When two rows of an agent are near-duplicates: MinHash over the words of what varies (frame and completion).

    Of rows whose estimated Jaccard similarity to a kept row is `threshold` or more, `keep` are kept, that row included.
    A held-out row that is so near to a training row is left out. `threshold: null` compares exact rows only.
    """

    threshold: float | None = Field(0.9, gt=0.0, le=1.0)
    keep: int = Field(3, ge=1)
    permutations: int = Field(128, ge=16, le=512)


class PersonalSettings(Strict):
    """Whose personal data is replaced: that of real dialogues by default; the traces' customers are made up already.

    `entities` says which entities of the domain hold personal data and of what kind, so that their values are found
    in every text of a conversation, whatever they look like.
    """

    public: bool = True
    traces: bool = False
    entities: dict[str, PersonalKind] = {
        "name": "person", "phone": "phone", "email": "email", "plate": "plate", "vin": "vin", "licence": "code",
    }  # fmt: skip
    phone_region: str = Field("US", pattern=r"^[A-Z]{2}$")


class CptSettings(Strict):
    """Texts for continued pretraining. `context` says where C_x comes from.

    `metadata`: what is known of the text (its source and fields, the topic of a dialogue); `preceding`: the text that
    stands before it (the document before, the first half of a dialogue); `model`: a model reads the text and describes
    it, and metadata stand in where it does not answer.
    """

    context: Context = "metadata"
    model: ModelSettings = ModelSettings()
    in_flight: int = Field(64, ge=1)
    max_characters: int = Field(16_000, ge=100)

    @model_validator(mode="after")
    def _has_a_writer(self) -> "CptSettings":
        if self.context == "model" and self.model.kind == "expert":
            raise ValueError(
                "context=model needs a model that can describe a text; give model.kind=endpoint, url, name"
            )
        return self


class DpoSettings(Strict):
    """Pairs for preference tuning. `hand` is a file of pairs that people made: see `agentmill pairs`."""

    hand: Path | None = None

    @field_validator("hand")
    @classmethod
    def _exists(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("there is no such file; start one with `agentmill pairs new RUN --call ID`")
        return value


class CalibrationSettings(Strict):
    """How many rows each calibration set has, drawn evenly over lengths; `edges` are in characters of the whole row."""

    rows: int = Field(512, ge=1)
    edges: tuple[int, ...] = (512, 1024, 2048, 4096)

    @field_validator("edges")
    @classmethod
    def _rise(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)) or any(edge < 1 for edge in value):
            raise ValueError("the edges of length buckets must be positive and rise; for example [512, 2048]")
        return value


class CorporaSettings(Strict):
    """What becomes of the refined calls.

    `max_duplicates` caps rows with the same prompt and completion. `rule_verdicts` adds Evaluator rows for recorded
    plans that break a rule: the checks in code are their truth, and without them it would only ever see good plans.
    `bucket_rows` is how many rows are held in memory at a time.
    """

    mixture: Mixture = Mixture()
    max_duplicates: int = Field(3, ge=1)
    near_duplicates: NearSettings = NearSettings()
    rule_verdicts: bool = True
    personal: PersonalSettings = PersonalSettings()
    cpt: CptSettings = CptSettings()
    dpo: DpoSettings = DpoSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    public_heldout_share: float = Field(0.05, ge=0.0, lt=1.0)
    public_heldout_rows: int = Field(500, ge=1)
    public_max_characters: int = Field(1200, ge=1)
    bucket_rows: int = Field(4096, ge=16)
