"""The embedded domain pack: Northgate Motors, a car dealership. `build()` gives it to the core."""

from agentmill.domains.base import Domain


def build() -> Domain:
    """The automotive domain pack; its parts are imported here so that importing the package costs nothing."""
    from agentmill.domains.automotive import intents
    from agentmill.domains.automotive.assess import assess
    from agentmill.domains.automotive.documents import documents
    from agentmill.domains.automotive.expert import Expert
    from agentmill.domains.automotive.grounding import ungrounded
    from agentmill.domains.automotive.prompts import build_prompts
    from agentmill.domains.automotive.rules import RULES
    from agentmill.domains.automotive.scenarios import generate
    from agentmill.domains.automotive.tools import TOOLS
    from agentmill.domains.automotive.world import AutomotiveWorld

    return Domain(
        name="automotive",
        title=intents.TITLE,
        entities=intents.ENTITIES,
        intents=intents.INTENTS,
        tools=TOOLS,
        rules=RULES,
        safe_reply=intents.SAFE_REPLY,
        prompts=build_prompts(),
        open_world=AutomotiveWorld,
        scenarios=generate,
        assess=assess,
        grounded=ungrounded,
        documents=documents,
        expert=Expert,
    )
