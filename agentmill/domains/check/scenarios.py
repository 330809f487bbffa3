"""The scenarios of both splits: reproducible, apart from each other, and together about everything that is offered.

Every mix that a pack offers is looked at; what `all` draws must be about every intent.
"""

from collections.abc import Generator, Iterator

from agentmill.domains.base import ALL, Domain, Json, Scenario, ScenarioSource
from agentmill.domains.check.finding import Finding, shortened

COUNT, NARROWER = 300, 100  # of all, and of each narrower mix
SPLITS = ("train", "heldout")
ABOUT = "scenarios"


def scenario_findings(domain: Domain) -> Iterator[Finding]:
    """What stands in the way of a corpus and an evaluation that can be trusted."""
    drawn: dict[str, list[Scenario]] = {split: [] for split in SPLITS}
    for mix in (ALL, *domain.mixes):
        about = ABOUT if mix == ALL else f"{ABOUT} {mix}"
        for split in SPLITS:
            count = COUNT if mix == ALL else NARROWER
            drawn[split] += yield from _of_split(domain.source(mix), count, split, f"{about} {split}")
    yield from _shared(drawn["train"], drawn["heldout"])
    goals = {goal.intent for split in SPLITS for scenario in drawn[split][:COUNT] for goal in scenario.goals}
    for name in domain.intents:
        if name not in goals:
            told = f"none of {2 * COUNT} scenarios has it as a goal, so it is neither taught nor tested; draw it too"
            yield Finding(f"intent {name}", told)
    for name in sorted(goals - set(domain.intents)):
        yield Finding(ABOUT, f"a goal names the intent {name}, and there is none, so it cannot be reached; mend it")


def _of_split(source: ScenarioSource, count: int, split: str, about: str) -> Generator[Finding, None, list[Scenario]]:
    """What one source draws for a split, which it returns."""
    scenarios = list(source(count, 0, split))
    if len(scenarios) != count:
        yield Finding(about, f"{count} were asked for and {len(scenarios)} came; give as many as are asked for")
    wrong = [scenario for scenario in scenarios if scenario.split != split]
    if wrong:
        yield Finding(
            about,
            f"{wrong[0].sid} says split={wrong[0].split}, so it would be taught or tested in the wrong place; mend it",
        )
    if list(source(count, 0, split)) != scenarios:
        yield Finding(
            about, "drawn again from the same seed they are others, so a run could not go on; draw from the seed alone"
        )
    others = {scenario.sid for scenario in source(count, 1, split)}
    if others and others == {scenario.sid for scenario in scenarios}:
        yield Finding(about, "another seed draws the same ones, so no two runs would differ; draw from the seed")
    yield from shortened(about, _digests(about, scenarios))
    distinct = len({scenario.sid for scenario in scenarios})
    if 2 * distinct < len(scenarios):
        told = f"{len(scenarios)} have {distinct} different contents, and each is played once; vary them more"
        yield Finding(about, told, error=False)
    return scenarios


def _digests(about: str, scenarios: list[Scenario]) -> Iterator[Finding]:
    """The id is the digest of the content: one is equal exactly where the other is."""
    contents: dict[str, Json] = {}
    for scenario in scenarios:
        content = scenario.model_dump(exclude={"sid"})
        if contents.setdefault(scenario.sid, content) != content:
            told = "another scenario has its id, so one of them would be lost; make the id a digest of the content"
            yield Finding(about, f"{scenario.sid}: {told}")


def _shared(train: list[Scenario], heldout: list[Scenario]) -> Iterator[Finding]:
    ids = {scenario.sid for scenario in train} & {scenario.sid for scenario in heldout}
    worlds = {scenario.world_seed for scenario in train} & {scenario.world_seed for scenario in heldout}
    if ids:
        yield Finding(
            ABOUT, f"both splits have {min(ids)}, so what is tested was taught; put the split into the digest"
        )
    if worlds:
        told = "so names and numbers that are tested were taught; give each split seeds of its own"
        yield Finding(ABOUT, f"both splits play in the world {min(worlds)}, {told}")
