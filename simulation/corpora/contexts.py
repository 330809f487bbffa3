"""C_x from a model: it reads a text and says in a sentence or two what the text is.

Invariant: a model that does not answer costs the description alone: the caller falls back to what is known of the
text, and the failures are counted.
"""

import asyncio

from agentmill.models.chat import ChatModel, ChatRequest, Message, ModelError, Sampling
from simulation.models import ModelSettings

SYSTEM = (
    "You describe texts for a language model that will learn to write them. Answer with one or two plain sentences "
    "that say what kind of text it is, what it is about, and who speaks to whom. Quote nothing from it."
)
_ATTEMPTS = 2
_MAX_TOKENS = 120
_SHOWN = 6000


class ContextWriter:
    """Asks the model for many descriptions at a time, on one event loop of its own; close it when done."""

    def __init__(self, model: ChatModel, settings: ModelSettings, seed: int) -> None:
        self.failures = 0
        self.asked = 0
        self._model = model
        self._settings = settings
        self._seed = seed
        self._runner = asyncio.Runner()

    def describe(self, texts: list[str]) -> list[str | None]:
        """A description of each text; None where none came."""
        return self._runner.run(self._all(texts))

    def close(self) -> None:
        self._runner.close()

    async def _all(self, texts: list[str]) -> list[str | None]:
        return list(await asyncio.gather(*map(self._one, texts)))

    async def _one(self, text: str) -> str | None:
        self.asked += 1
        messages = (Message(role="system", content=SYSTEM), Message(role="user", content=text[:_SHOWN]))
        for attempt in range(_ATTEMPTS):
            sampling = Sampling(
                temperature=self._settings.temperature, max_tokens=_MAX_TOKENS, seed=(self._seed + attempt) % 2**31
            )
            try:
                reply = await self._model.complete(ChatRequest(agent="judge", messages=messages, sampling=sampling))
            except ModelError as error:
                if not error.retryable:
                    break
                continue
            if reply.text.strip() and reply.finish_reason == "stop":
                return reply.text.strip()
        self.failures += 1
        return None
