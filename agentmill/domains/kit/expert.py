"""A pack's expert: one ChatModel that answers for every agent, for the customer and for the judge.

It sees the prompt's frame and nothing else, as any model does. Its answers are a pure function of (messages, seed);
as a teacher it makes a mistake in a share `mistake_rate` of the answers that offer one, drawn from their digest. The
user simulator and the judge make none. Everything it says is labelled with the model name `expert`.
"""

import hashlib
import random
import time
from dataclasses import replace
from functools import partial

from agentmill.agents.frames import parse_frame
from agentmill.domains.base import Domain
from agentmill.domains.kit.answers import Answers
from agentmill.domains.kit.gold import gold, heard
from agentmill.domains.kit.judge import judge
from agentmill.domains.kit.mistakes import Mistakes
from agentmill.domains.kit.policy import Policy
from agentmill.models.chat import ChatReply, ChatRequest, Message, ModelError, frame_of

NAME = "expert"
_CHARACTERS_PER_TOKEN = 4


def with_expert(domain: Domain, policy: Policy) -> Domain:
    """The same pack with an expert that follows `policy`, its gold cases and its reading of what customers say."""
    answers = Answers(domain, policy)
    return replace(domain, expert=partial(Expert, answers), gold=partial(gold, answers), heard=partial(heard, answers))


class Expert:
    """See the module. `mistake_rate` is between 0 and 1."""

    def __init__(self, answers: Answers, mistake_rate: float = 0.0) -> None:
        if not 0.0 <= mistake_rate <= 1.0:
            raise ValueError(f"mistake_rate={mistake_rate} is no share: use a number from 0 to 1")
        self.answers = answers
        self.mistakes = Mistakes(answers)
        self.mistake_rate = mistake_rate

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer from the frame.

        Raises:
            ModelError: when the frame is none that this agent gets; trying again does not help.
        """
        began = time.perf_counter()
        try:
            text = self._answer(request)
        except (LookupError, ValueError, TypeError) as error:
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
        frame = parse_frame(frame_of(request.messages))
        seed = request.sampling.seed
        if request.agent == "user":
            return self.answers.policy.customer(frame, seed)
        if request.agent == "judge":
            return judge(self.answers, frame)
        right = self.answers.answer(request.agent, frame)
        rng = random.Random(_digest(request.messages, seed))
        if rng.random() >= self.mistake_rate:
            return right
        spoiled = self.mistakes.spoil(request.agent, frame, right, rng)
        return spoiled[1] if spoiled else right


def _digest(messages: tuple[Message, ...], seed: int | None) -> str:
    text = "\x1e".join(f"{message.role}\x1f{message.content}" for message in messages)
    return hashlib.sha256(f"{seed}\x1e{text}".encode()).hexdigest()
