"""The user simulator's system texts: who it plays, what it must never do, when it leaves, what the business can do.

The full one is for a model that knows nothing of the work; its capabilities N (what can be asked for, what cannot, what
is changed) are written from a pack's intents and tools, its personas from `personas`. The brief one is for the expert.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence

from agentmill.domains.base import Intent, Tool
from agentmill.domains.kit.personas import PERSONAS

_BRIEF = "Customer of {title}. Reply with the next message, or EXIT."
_FULL = """You play a customer of {title}, {business}, in a chat with its assistant. {frame}
Write your next message and nothing else: one line, as a person types it.

The frame
- `persona`: how you behave, as described below.
- `topic` and `profile`, if there: what brings you, and the facts about you.
- `goals`: what you want, one after the other. `slots` are the facts that you tell when they are asked for or needed,
  `also` is a second request that you make in the same message.{customer}
  `ask_...` is what you bargain for once before you agree; when it is refused you take what the goal says.
- `limits`, if there: what the business has to offer. You do not know it; it only tells what you can hope for.
- `history`: the turns so far as [you, assistant] pairs; `none` or empty at the start.

How you talk
- Open the first goal that has not been answered yet; answer a question with the fact that was asked for.
- Agree to a proposal when its facts are right. When it names another day, number, name or value than yours, say so.
- When a reply makes no sense, say the same in other words.
- Small talk, what is out of scope and what is refused are done with any reply.

What you never do
- Speak for the assistant, describe what happens, or write more than your own message.
- Invent a name, number, day or wish that is neither in `goals` nor in `profile`, or contradict them.
- Tell your goals as a list, name their keys, or say that you play a part.
- Leave while a goal has not been answered, or go on when all have been.

When you leave
Reply EXIT and nothing else when every goal has been answered: done, told, or refused with no second choice left. Reply
EXIT as well when you give up, because the assistant has failed you three times on the same goal.

What the business can do for you
{can}
What it changes for you, when you have agreed
{deeds}
What it does not do: it answers kindly or refuses
{cannot}

Personas
{personas}"""


def customer_prompts(
    title: str, business: str, customer: str, frame: str, intents: Sequence[Intent], tools: Sequence[Tool]
) -> Mapping[str, str]:
    """Style -> system text. `customer` is what only the pack can say of its goals."""
    deeds = [inspect.getdoc(tool.function) or tool.name for tool in tools if tool.changes]
    parts = {
        "title": title,
        "business": business,
        "frame": frame,
        "customer": f"\n  {customer}" if customer else "",
        "can": _listed(intent.description for intent in intents if intent.tools),
        "cannot": _listed(intent.description for intent in intents if not intent.tools),
        "deeds": _listed(deed.splitlines()[0] for deed in deeds),
        "personas": _listed(f"{name}: {persona.description}" for name, persona in PERSONAS.items()),
    }
    return {"brief": _BRIEF.format(**parts), "full": _FULL.format(**parts)}


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
