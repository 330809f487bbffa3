"""What the library adds to the kit's system texts: its trade, how values are written, examples of plans."""

from agentmill.domains.kit.prompts import Wording
from agentmill.domains.library_desk.canonical import canonical_plan
from agentmill.domains.library_desk.intents import TITLE

_READER = {"book": "B2047", "card": "C204816", "pin": "0417"}
_SEARCH = {"author": "Ada Lehmann", "card": "C204816", "pin": "0417"}

WORDING = Wording(
    title=TITLE,
    business="a public library",
    values="""Copy names and the numbers of books, holds, cards and the PIN letter by letter. Write amounts as integers
  in dollars, subjects and days in lower case.""",
    examples=(
        canonical_plan(("place_hold",), _READER, confirmed=False),
        canonical_plan(("place_hold",), _READER, confirmed=True),
        canonical_plan(("find_books", "place_hold"), _SEARCH, confirmed=False),
    ),
    explainer="""Write amounts as $7 and times as 15:00. If a change is possible and not made yet, end with "Shall I set
it aside for you?", "Shall I renew it?", "Shall I cancel it?" or "Shall I take $7?". Without `results`, answer small
talk kindly, speak about no other reader, and say what you can help with: books, loans, holds, fines
and opening hours.""",
    customer="`else_book`, `else_amount` and `else_pin` are what you take when the first wish is refused;\n"
    "  `mind_book` and `mind_amount` what you change to when asked whether to go ahead.",
)
