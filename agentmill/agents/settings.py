"""The system's own settings: how prompts are worded, how often an agent tries, and when the model evaluator speaks."""

from typing import ClassVar, Literal

from pydantic import Field

from agentmill.config import Strict
from agentmill.domains.base import WorldSettings
from agentmill.plans.complexity import Measure


class MaxTokens(Strict):
    """The longest output of each agent, in tokens. An output that is cut counts as invalid."""

    understander: int = Field(192, ge=1)
    planner: int = Field(384, ge=1)
    evaluator: int = Field(64, ge=1)
    explainer: int = Field(256, ge=1)


class Structured(Strict):
    """Which agents prescribe the structure of their output, and the largest one that they let through.

    The Understander and the Evaluator send a JSON schema, the Planner a grammar of plans over the tools of the state.
    It takes a model behind an engine that can be guided; what comes is validated all the same. A text value has at most
    `max_text` characters, a block of a plan `max_statements` statements, and `max_depth` blocks lie inside each other.
    """

    understander: bool = False
    planner: bool = False
    evaluator: bool = False
    max_text: int = Field(120, ge=1, le=2_000)
    max_statements: int = Field(8, ge=1, le=50)
    max_depth: int = Field(3, ge=0, le=4)


class TeamSettings(Strict):
    """Settings of the system M, the same in simulation, evaluation and serving.

    The first attempt is greedy; those after an invalid output sample at `retry_temperature` with another seed. With
    `feedback` they are shown what was wrong with the output before, which a model that can read it mends at once; a
    small student that has only learnt its agents' prompts is better asked the same again. With `grounded_replies` the
    Explainer is asked again for a reply that states what it was not given.
    What a customer says in more than `max_utterance` characters is answered by the safe reply and read by no model.
    The model evaluator is asked when a plan's `complexity_measure` exceeds `complexity_threshold`; None: never. Of the
    plans that are skipped so, `shadow_share` is put to it all the same, without effect: what the gate misses.
    """

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({"call_timeout_s"})

    prompts: Literal["brief", "full"] = "brief"
    attempts: int = Field(3, ge=1, le=10)
    retry_temperature: float = Field(0.7, ge=0.0, le=2.0)
    feedback: bool = True
    grounded_replies: bool = True
    max_replans: int = Field(2, ge=0, le=10)
    complexity_measure: Measure = "volume"
    complexity_threshold: float | None = Field(0.0, ge=0.0)
    shadow_share: float = Field(0.0, ge=0.0, le=1.0)
    max_utterance: int = Field(4_000, ge=1)
    call_timeout_s: float = Field(120.0, gt=0.0)
    max_tokens: MaxTokens = MaxTokens()
    structured: Structured = Structured()
    world: WorldSettings = WorldSettings()
