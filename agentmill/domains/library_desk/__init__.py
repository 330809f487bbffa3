"""A small second domain pack: the desk of a public library, with loans, holds and fines. `build()` gives it."""

from agentmill.domains.base import Domain


def build() -> Domain:
    """The library pack; its parts are imported here so that importing the package costs nothing."""
    from agentmill.domains.kit.expert import with_expert
    from agentmill.domains.kit.prompts import build_prompts, reworded
    from agentmill.domains.library_desk import intents
    from agentmill.domains.library_desk.assess import assess
    from agentmill.domains.library_desk.attacks import corpus
    from agentmill.domains.library_desk.cases import CASES
    from agentmill.domains.library_desk.coverage import COVERAGE, generate_coverage
    from agentmill.domains.library_desk.documents import documents
    from agentmill.domains.library_desk.policy import POLICY
    from agentmill.domains.library_desk.prompts import WORDING
    from agentmill.domains.library_desk.rules import RULES
    from agentmill.domains.library_desk.scenarios import generate
    from agentmill.domains.library_desk.switched import generate_switches
    from agentmill.domains.library_desk.switches import SWITCHES
    from agentmill.domains.library_desk.tools import TOOLS
    from agentmill.domains.library_desk.world import LibraryWorld

    domain = Domain(
        name="library_desk",
        title=intents.TITLE,
        entities=intents.ENTITIES,
        intents=intents.INTENTS,
        tools=TOOLS,
        rules=RULES,
        safe_reply=intents.SAFE_REPLY,
        prompts=build_prompts(WORDING, intents.ENTITIES.values(), intents.INTENTS.values(), TOOLS.values(), RULES),
        open_world=LibraryWorld,
        scenarios=generate,
        assess=assess,
        grounded=POLICY.grounding.ungrounded,
        documents=documents,
        rule_cases=CASES,
        mixes={"switches": generate_switches, "coverage": generate_coverage},
        coverage=COVERAGE,
        attacks=corpus,
        switches=SWITCHES,
        reworded=reworded(WORDING),
    )
    return with_expert(domain, POLICY)
