"""The domain's expert: one ChatModel that answers for every agent, for the customer and for the judge.

It sees the prompt's frame and nothing else, as any model does. Its answers are a pure function of (messages, seed);
as a teacher it makes a mistake in a share `mistake_rate` of the answers that offer one, drawn from their digest. The
user simulator and the judge make none. Everything it says is labelled with the model name `expert`.
"""

import hashlib
import random
import time

from agentmill.agents.frames import parse_frame
from agentmill.domains.automotive.judge import judge
from agentmill.domains.automotive.mistakes import spoil
from agentmill.domains.automotive.policy import answer
from agentmill.domains.automotive.user import Customer
from agentmill.models.chat import ChatReply, ChatRequest, Message, ModelError

NAME = "expert"
_CHARACTERS_PER_TOKEN = 4


class Expert:
    """See the module. `mistake_rate` is between 0 and 1."""

    def __init__(self, mistake_rate: float = 0.0) -> None:
        if not 0.0 <= mistake_rate <= 1.0:
            raise ValueError(f"mistake_rate={mistake_rate} is no share: use a number from 0 to 1")
        self.mistake_rate = mistake_rate

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer from the last message's frame.

        Raises:
            ModelError: when the frame is none that this agent gets; trying again does not help.
        """
        began = time.perf_counter()
        try:
            text = self._answer(request)
        except (KeyError, ValueError, TypeError) as error:
            sentence = f"the expert cannot read the {request.agent}'s prompt: {type(error).__name__} {error}"
            raise ModelError(sentence, retryable=False) from error
        prompt = sum(len(message.content) for message in request.messages)
        return ChatReply(
            text=text,
            model=NAME,
            prompt_tokens=prompt // _CHARACTERS_PER_TOKEN,
            completion_tokens=len(text) // _CHARACTERS_PER_TOKEN + 1,
            latency_s=time.perf_counter() - began,
        )

    def _answer(self, request: ChatRequest) -> str:
        frame = parse_frame(request.messages[-1].content)
        seed = request.sampling.seed
        if request.agent == "user":
            return Customer(frame, seed).speak()
        if request.agent == "judge":
            return judge(frame)
        right = answer(request.agent, frame)
        rng = random.Random(_digest(request.messages, seed))
        if rng.random() >= self.mistake_rate:
            return right
        spoiled = spoil(request.agent, frame, right, rng)
        return spoiled[1] if spoiled else right


def _digest(messages: tuple[Message, ...], seed: int | None) -> str:
    text = "\x1e".join(f"{message.role}\x1f{message.content}" for message in messages)
    return hashlib.sha256(f"{seed}\x1e{text}".encode()).hexdigest()
