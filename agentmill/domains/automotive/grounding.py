"""What counts as a fact at the dealership: the closed lists of its catalogue, and the makes wherever they stand."""

from agentmill.domains.automotive.catalogue import BODIES, CATALOGUE, COLOURS, DAYS, FUELS
from agentmill.domains.automotive.intents import TITLE
from agentmill.domains.kit.grounding import Grounding

GROUNDING = Grounding(known=f"{TITLE} suv", closed=DAYS + FUELS + BODIES + COLOURS, names=CATALOGUE)
