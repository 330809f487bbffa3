"""The rules by their cases: of the one that violates a rule the checks say its code alone, of the other nothing.

The cases go through the very checks that a plan goes through, so that a case also shows what the core says of it.
"""

from collections.abc import Iterator

from agentmill.config import nearest
from agentmill.domains.base import Domain, Situation
from agentmill.domains.check.finding import Finding
from agentmill.plans.check import check
from agentmill.plans.parse import Plan, PlanError


def rule_findings(domain: Domain) -> Iterator[Finding]:
    """Rules without cases, cases without rules, and cases that do not show what they should."""
    codes = [rule.code for rule in domain.rules]
    for code in codes:
        if code not in domain.rule_cases:
            remedy = f"add RuleCase(violates=..., keeps=...) for {code} to the pack's rule_cases"
            yield Finding(f"rule {code}", f"no case violates or keeps it, so nothing shows that it works; {remedy}")
    for code, case in domain.rule_cases.items():
        if code not in codes:
            guess = nearest(code, codes)
            hint = f"did you mean {guess}?" if guess else "take it out, or write the rule"
            yield Finding(f"rule case {code}", f"there is no rule of this code, so it shows nothing; {hint}")
            continue
        violated = codes_of(domain, case.violates)
        if violated != [code]:
            remedy = "let it break this rule and keep every other"
            yield Finding(f"rule {code}", f"of its violating case the checks say {_listed(violated)}; {remedy}")
        kept = codes_of(domain, case.keeps)
        if kept:
            remedy = "let it keep every rule"
            yield Finding(f"rule {code}", f"of its keeping case the checks say {_listed(kept)}; {remedy}")


def codes_of(domain: Domain, situation: Situation) -> list[str]:
    """What the checks say of a plan in a situation: its codes in order, none where it may run."""
    try:
        plan = Plan.parse(situation.plan)
    except PlanError as error:
        return [error.code]
    return [found.code for found in check(plan, domain, situation.state, situation.facts)]


def _listed(codes: list[str]) -> str:
    return " and ".join(codes) or "nothing"
