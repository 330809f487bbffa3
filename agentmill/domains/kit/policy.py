"""What a pack's expert must provide: a `Policy`, four functions that know the trade, beside what counts as a fact.

Each is a pure function of what it gets, so that the judge can ask the same policy about any recorded call. The kit
does the rest: it reads the frame, writes JSON, decides verdicts, makes mistakes and judges.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentmill.agents.state import DialogueState
from agentmill.domains.base import Json
from agentmill.domains.kit.grounding import Grounding

Frame = Mapping[str, str]


@dataclass(frozen=True)
class Policy:
    """The error-free answers of one pack.

    `understand(frame)` is the Understander's JSON object, its keys in the order in which they are written.
    `plan(state, violations)` is the plan due in a state with its switches in force, tools by the names that the pack
    gave them, where a plan that was refused before broke `violations` ("" if
    none was): some a better plan mends, after others (EXECUTION: the world refused) only checks are left.
    `explain(frame)` is the reply. `customer(frame, seed)` is what a simulated customer says next, or EXIT.
    """

    understand: Callable[[Frame], Json]
    plan: Callable[[DialogueState, str], str]
    explain: Callable[[Frame], str]
    customer: Callable[[Frame, int | None], str]
    grounding: Grounding


def compact(value: Any) -> str:
    """JSON as every agent writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
