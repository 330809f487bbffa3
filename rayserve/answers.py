"""What crosses the boundary of the shared engine. Plain, so that an agent's process imports no engine to read it."""

from pydantic import BaseModel

from agentmill.models.chat import ChatReply, ModelError


class EngineAnswer(BaseModel):
    """Either a reply, or why there is none and whether asking again can help."""

    reply: ChatReply | None = None
    error: str = ""
    retryable: bool = True

    def unwrap(self) -> ChatReply:
        """The reply.

        Raises:
            ModelError: when the engine refused.
        """
        if self.reply is None:
            raise ModelError(self.error, retryable=self.retryable)
        return self.reply
