"""A model that is not told of changes of the business: the control that shows whether switches bite."""

from agentmill.models.chat import AgentName, ChatModel, ChatReply, ChatRequest, Message


class Blind:
    """Answers as `model` does, but for agents in `agents`, whose frames lose their line of changes."""

    def __init__(self, model: ChatModel, *agents: AgentName) -> None:
        self.model = model
        self.agents = agents

    async def complete(self, request: ChatRequest) -> ChatReply:
        if request.agent in self.agents:
            messages = tuple(_untold(message) for message in request.messages)
            request = request.model_copy(update={"messages": messages})
        return await self.model.complete(request)


def _untold(message: Message) -> Message:
    lines = [line for line in message.content.split("\n") if not line.startswith("changes: ")]
    return message.model_copy(update={"content": "\n".join(lines)})
