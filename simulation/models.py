"""Which model answers, by configuration: ModelSettings in, a ChatModel out.

The teacher, the user simulator and the judge are each named by one ModelSettings: the domain's expert, any OpenAI-
compatible endpoint, or an engine that the run starts. An engine is started by whoever composes the run, and reaches
the simulation as a StartedModel, an endpoint whose address is nobody's business. Invariant: two settings with equal
`identity` give the same answers to the same prompts as far as the model itself is deterministic, so the identity goes
into the digests of what they produced.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from agentmill.config import ConfigError, Strict
from agentmill.domains.base import Domain
from agentmill.models.chat import ChatModel


class ModelSettings(Strict):
    """A model by configuration. `mistake_rate` is the expert's share of deliberate mistakes.

    `engine`: the run starts the engine `name` of its configuration's `engines` for the stages that need it.
    `api_key_env` names the environment variable that holds the key: the key itself is never in a configuration.
    `grammars=false` keeps a Planner's grammar from an endpoint that refuses fields which it does not know.
    """

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({"timeout_s", "api_key_env"})

    kind: Literal["expert", "endpoint", "engine"] = "expert"
    url: str = ""
    name: str = ""
    mistake_rate: float = Field(0.0, ge=0.0, le=1.0)
    api_key_env: str = ""
    temperature: float = Field(0.0, ge=0.0, le=2.0)
    timeout_s: float = Field(120.0, gt=0.0)
    grammars: bool = True

    @model_validator(mode="after")
    def _belongs_together(self) -> "ModelSettings":
        if self.kind == "endpoint" and not (self.url and self.name):
            raise ValueError("kind=endpoint needs url and name, for example http://localhost:8001/v1 and llama-70b")
        if self.kind == "engine" and (self.url or not self.name):
            raise ValueError("kind=engine needs the name of one of the run's `engines`, and no url")
        if self.kind != "expert" and self.mistake_rate:
            raise ValueError("mistake_rate is for kind=expert only; another model makes its own mistakes")
        if self.kind == "expert" and (self.url or self.name):
            raise ValueError("url and name are for kind=endpoint and kind=engine; leave them out for the expert")
        return self

    @property
    def prompts(self) -> str:
        """The style of system prompt that this model needs: the expert knows its work, another model is told it."""
        return "brief" if self.kind == "expert" else "full"

    @property
    def server(self) -> str:
        """Which server's limits hold for it: one model of one address."""
        return f"{self.url} {self.name}"

    @property
    def identity(self) -> str:
        """What distinguishes this model's answers from another's."""
        if self.kind == "expert":
            return f"expert/{self.mistake_rate:g}"
        return f"{self.url}/{self.name}/{self.temperature:g}{'' if self.grammars else '/no-grammars'}"

    def started(self, url: str, served_as: str) -> "StartedModel":
        """These settings once their engine answers at `url`; `served_as` says what it serves."""
        given = self.model_dump() | {"kind": "endpoint", "url": url, "served_as": served_as}
        return StartedModel.model_validate(given)


class StartedModel(ModelSettings):
    """An endpoint that the run started itself: what it serves tells it from others, not the port that it was given."""

    served_as: str

    @property
    def identity(self) -> str:
        """What distinguishes this model's answers from another's."""
        return f"{self.served_as}/{self.temperature:g}{'' if self.grammars else '/no-grammars'}"


def build_model(settings: ModelSettings, domain: Domain) -> ChatModel:
    """Make the model that `settings` names.

    Raises:
        ConfigError: when the domain has no expert, or the environment variable of the key is not set.
    """
    if settings.kind == "expert":
        if domain.expert is None:
            raise ConfigError(f"kind=expert: the domain {domain.name} has no expert; use kind=endpoint, url and name")
        return domain.expert(settings.mistake_rate)
    if settings.kind == "engine":
        raise ConfigError(
            f"kind=engine, name={settings.name}: only the stages simulate, refine and the teacher's part of evaluate "
            "start engines; serve the model and give kind=endpoint and its url here"
        )
    from agentmill.models.openai_client import OpenAIModel

    key = os.environ.get(settings.api_key_env) if settings.api_key_env else None
    if settings.api_key_env and not key:
        raise ConfigError(f"api_key_env={settings.api_key_env}: the variable is not set; export it before the run")
    return OpenAIModel(
        settings.url, settings.name, api_key=key, timeout_s=settings.timeout_s, grammars=settings.grammars
    )


@asynccontextmanager
async def closing(*models: ChatModel) -> AsyncIterator[None]:
    """Close the connections of those models that have some when the block ends."""
    try:
        yield
    finally:
        for model in models:
            close = getattr(model, "close", None)
            if close is not None:
                await close()
