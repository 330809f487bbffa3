"""What a drafter learns from: prompts, whose responses the student then writes itself.

A drafter predicts the very model that it drafts for, so responses by anyone else teach it the wrong distribution. The
corpus holds prompts with an empty completion and the status `open`; `regenerate` fills them from any ChatModel.
Invariant: a row whose model did not answer keeps its prompt and has the status `error`, one whose response did not come
to an end `unfinished`; both say why.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import get_args

from agentmill.models.chat import AgentName, ChatModel, ChatRequest, Message, ModelError, Sampling
from simulation.corpora.rows import Candidate, Row, assistant

OPEN, OK, UNFINISHED, ERROR = "open", "ok", "unfinished", "error"  # the status of a row
_AGENTS = frozenset(get_args(AgentName))


def drafter_row(candidate: Candidate) -> Candidate:
    """The prompt of a row, with the place for the student's response."""
    empty = {"completion": [], "status": OPEN, "error": "", "model": ""}
    return replace(candidate, row={**candidate.row, **empty})


async def regenerate(
    rows: Iterable[Row], model: ChatModel, *, sampling: Sampling, in_flight: int = 64, attempts: int = 2
) -> AsyncIterator[Row]:
    """The rows with responses by `model`, in their order, at most `in_flight` asked at a time.

    Prompts of real dialogues are asked in the Explainer's name: it is the one that speaks to customers.
    """
    asked: deque[asyncio.Task[Row]] = deque()
    try:
        for row in rows:
            if len(asked) >= in_flight:
                yield await asked.popleft()
            asked.append(asyncio.create_task(_regenerated(row, model, sampling, attempts)))
        while asked:
            yield await asked.popleft()
    finally:
        for task in asked:
            task.cancel()


async def _regenerated(row: Row, model: ChatModel, sampling: Sampling, attempts: int) -> Row:
    agent = row["agent"] if row["agent"] in _AGENTS else "explainer"
    messages = tuple(Message.model_validate(message) for message in row["prompt"])
    status, problem = ERROR, ""
    for attempt in range(attempts):
        drawn = sampling.model_copy(update={"seed": (sampling.seed or 0) + attempt})
        try:
            reply = await model.complete(ChatRequest(agent=agent, messages=messages, sampling=drawn))
        except ModelError as error:
            status, problem = ERROR, str(error)
            if not error.retryable:
                break
            continue
        if reply.finish_reason == "length":
            status, problem = UNFINISHED, f"the response did not end within {sampling.max_tokens} tokens"
            if sampling.temperature == 0:
                break
        elif reply.text.strip():
            return {**row, "completion": assistant(reply.text), "status": OK, "error": "", "model": reply.model}
        else:
            status, problem = ERROR, "the model gave an empty response"
    return {**row, "status": status, "error": problem}
