"""What counts as a fact at the library: days and subjects beside numbers, names and titles."""

from agentmill.domains.kit.grounding import Grounding
from agentmill.domains.library_desk.intents import DAYS, SUBJECTS, TITLE

GROUNDING = Grounding(known=f"{TITLE} PIN", closed=DAYS + SUBJECTS)
