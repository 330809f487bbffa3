"""The system's own settings: how prompts are worded, how often an agent tries, and when the model evaluator speaks."""

from typing import Literal

from pydantic import Field

from agentmill.config import Strict


class MaxTokens(Strict):
    """The longest output of each agent, in tokens. An output that is cut counts as invalid."""

    understander: int = Field(192, ge=1)
    planner: int = Field(384, ge=1)
    evaluator: int = Field(64, ge=1)
    explainer: int = Field(256, ge=1)


class TeamSettings(Strict):
    """Settings of the system M, the same in simulation, evaluation and serving.

    The first attempt is greedy; later ones sample at `retry_temperature` with another seed and the same prompt.
    The model evaluator is asked when a plan's Halstead volume exceeds `complexity_threshold`; None: never.
    """

    prompts: Literal["brief", "full"] = "brief"
    attempts: int = Field(3, ge=1, le=10)
    retry_temperature: float = Field(0.7, ge=0.0, le=2.0)
    max_replans: int = Field(2, ge=0, le=10)
    complexity_threshold: float | None = Field(0.0, ge=0.0)
    call_timeout_s: float = Field(120.0, gt=0.0)
    max_tokens: MaxTokens = MaxTokens()
