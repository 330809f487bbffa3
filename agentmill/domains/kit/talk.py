"""What the error-free Explainer says where there is nothing to explain: greetings, thanks, a change of mind."""

import re

from agentmill.domains.kit.reading import AGREES, DECLINES

_GREETING = re.compile(r"\b(?:hi|hello|hey|good (?:morning|afternoon|evening))\b", re.IGNORECASE)
_THANKS = re.compile(r"\b(?:thank|thanks|cheers|bye|goodbye|that's all|that was all)\b", re.IGNORECASE)


def small_talk(customer: str) -> str:
    """The reply to words that ask for nothing."""
    if _THANKS.search(customer):
        return "You are welcome. Have a nice day!"
    if _GREETING.search(customer):
        return "Hello! How can I help you today?"
    if DECLINES.search(customer) and not AGREES.search(customer):
        return "All right, I leave it. What else can I do for you?"
    return "It is nice to talk to you. How can I help you today?"
