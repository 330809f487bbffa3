"""The embedded domain pack: Northgate Motors, a car dealership. `build()` gives it to the core."""

from agentmill.domains.base import Domain


def build() -> Domain:
    """The automotive domain pack; its parts are imported here so that importing the package costs nothing."""
    from agentmill.domains.automotive import intents
    from agentmill.domains.automotive.assess import assess
    from agentmill.domains.automotive.attacks import corpus
    from agentmill.domains.automotive.cases import CASES
    from agentmill.domains.automotive.coverage import COVERAGE, generate_coverage
    from agentmill.domains.automotive.documents import documents
    from agentmill.domains.automotive.policy import POLICY
    from agentmill.domains.automotive.prompts import WORDING
    from agentmill.domains.automotive.rules import RULES
    from agentmill.domains.automotive.scenarios import generate, generate_core
    from agentmill.domains.automotive.switched import generate_switches
    from agentmill.domains.automotive.switches import SWITCHES
    from agentmill.domains.automotive.tools import TOOLS
    from agentmill.domains.automotive.world import AutomotiveWorld
    from agentmill.domains.kit.expert import with_expert
    from agentmill.domains.kit.prompts import build_prompts, reworded

    domain = Domain(
        name="automotive",
        title=intents.TITLE,
        entities=intents.ENTITIES,
        intents=intents.INTENTS,
        tools=TOOLS,
        rules=RULES,
        safe_reply=intents.SAFE_REPLY,
        prompts=build_prompts(WORDING, intents.ENTITIES.values(), intents.INTENTS.values(), TOOLS.values(), RULES),
        open_world=AutomotiveWorld,
        scenarios=generate,
        assess=assess,
        grounded=POLICY.grounding.ungrounded,
        documents=documents,
        rule_cases=CASES,
        mixes={"core": generate_core, "switches": generate_switches, "coverage": generate_coverage},
        coverage=COVERAGE,
        attacks=corpus,
        switches=SWITCHES,
        reworded=reworded(WORDING),
    )
    return with_expert(domain, POLICY)
