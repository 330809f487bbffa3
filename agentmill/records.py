"""What a run records: one row a model call, a customer turn and a conversation, and their Arrow schemas.

Rows are pydantic models here and flat Parquet columns on disk; nested values travel as one JSON column so that
blocks always unify. SCHEMA_VERSION is stored in every file's metadata and checked by readers. Invariant: what a clock
measured is in the table of timings and nowhere else, so that the same conversations give the same calls, turns and
conversations to the byte.
"""

from typing import Literal

import pyarrow as pa
from pydantic import BaseModel

from agentmill.models.chat import AgentName, Message

SCHEMA_VERSION = "2"

CallStatus = Literal["ok", "invalid", "error"]
TurnStatus = Literal["answered", "asked", "safe_reply"]
ConversationStatus = Literal["exit", "turn_limit", "error"]
GateMark = Literal["none", "asked", "skipped", "shadow_ok", "shadow_rejected", "shadow_unjudged"]


class Call(BaseModel):
    """One model call by one agent: full prompt, output, accounting (the paper calls it a trace).

    `status` is `invalid` when the output did not pass the agent's validation and was retried,
    `error` when no output came. `mistake` names what an expert teacher got wrong on purpose, else "".
    """

    call_id: str
    sid: str
    turn: int
    index: int
    agent: AgentName
    messages: tuple[Message, ...]
    output: str
    status: CallStatus
    error: str = ""
    model: str
    prompt_tokens: int
    completion_tokens: int
    latency_s: float


class Turn(BaseModel):
    """One customer turn of the system M. `plan` is "" where the intent needs none; `results` is JSON by variable.

    `intent` joins several requests of one utterance with "+". `gate` says what became of `plan` at the complexity
    gate: the model evaluator was `asked`, or the plan was `skipped`; a skipped plan of the shadow sample has the
    verdict that it would have got (`unjudged` where none came). It is `none` where there is no plan or a rule refused
    it. `switches` names the changes of the business that took hold before the turn.
    """

    sid: str
    turn: int
    utterance: str
    reply: str
    status: TurnStatus
    intent: str
    plan: str
    complexity: float
    gate: GateMark = "none"
    replans: int
    violations: tuple[str, ...]
    results_json: str
    switches: tuple[str, ...] = ()
    latency_s: float


class Conversation(BaseModel):
    """One finished conversation. `world_json` is the final snapshot of the world; `success` the domain's assessment.

    `user_errors` are the user simulator's own mistakes, by the codes of `simulation.fidelity`.
    """

    sid: str
    scenario_json: str
    status: ConversationStatus
    error: str = ""
    success: bool
    reasons: tuple[str, ...]
    user_errors: tuple[str, ...] = ()
    turns: int
    calls: int
    world_json: str
    seconds: float


_STR, _INT, _FLOAT, _BOOL = pa.string(), pa.int32(), pa.float64(), pa.bool_()
_METADATA = {b"agentmill.schema_version": SCHEMA_VERSION.encode()}

CALL_SCHEMA = pa.schema(
    [
        ("call_id", _STR), ("sid", _STR), ("turn", _INT), ("index", _INT), ("agent", _STR),
        ("messages_json", _STR), ("output", _STR), ("status", _STR), ("error", _STR), ("model", _STR),
        ("prompt_tokens", _INT), ("completion_tokens", _INT),
    ],
    metadata=_METADATA,
)  # fmt: skip
TURN_SCHEMA = pa.schema(
    [
        ("sid", _STR), ("turn", _INT), ("utterance", _STR), ("reply", _STR), ("status", _STR), ("intent", _STR),
        ("plan", _STR), ("complexity", _FLOAT), ("gate", _STR), ("replans", _INT), ("violations_json", _STR),
        ("results_json", _STR), ("switches_json", _STR),
    ],
    metadata=_METADATA,
)  # fmt: skip
CONVERSATION_SCHEMA = pa.schema(
    [
        ("sid", _STR), ("scenario", _STR), ("split", _STR), ("world_seed", pa.int64()), ("scenario_json", _STR),
        ("status", _STR), ("error", _STR), ("success", _BOOL), ("reasons_json", _STR),
        ("user_errors_json", _STR), ("turns", _INT),
        ("calls", _INT), ("world_json", _STR),
    ],
    metadata=_METADATA,
)  # fmt: skip
# One row for each conversation, turn and call, by `kind`; `turn` and `index` are null where they do not apply.
TIMING_SCHEMA = pa.schema(
    [("kind", _STR), ("sid", _STR), ("turn", _INT), ("index", _INT), ("seconds", _FLOAT)], metadata=_METADATA
)
