"""What the dealership adds to the kit's system texts: its trade, how values are written, examples of plans."""

from agentmill.domains.automotive.intents import TITLE
from agentmill.domains.kit.prompts import Wording

_CHECK = 'slot = check_slot(stock="N4821", day="friday", time="15:00")'
_BOOK = """slot = check_slot(stock="N4821", day="friday", time="15:00")
check = verify_licence(name="Ana Brankovic", licence="D4471902")
if slot["free"] and check["verified"]:
    booking = book_test_drive(stock="N4821", day="friday", time="15:00", name="Ana Brankovic", licence="D4471902")"""

_BOTH = """cars = search_inventory(body="suv", fuel="petrol")
slot = check_slot(stock=cars[0]["stock"], day="friday", time="15:00")"""
_RATE = """rate = finance_rate(score=720, term=48)
if rate["approved"]:
    quote = finance_quote(stock="N4821", apr=rate["apr"], term=48, down_payment=3000)"""

WORDING = Wording(
    title=TITLE,
    business="a car dealership",
    values="""Copy names, numbers, makes and models letter by letter. Write times as "15:00", prices, years and miles as
  integers, days and other choices in lower case.""",
    examples=(_CHECK, _BOOK, _BOTH, _RATE),
    explainer="""Write prices as $27450 and times as 15:00.
If something is free, found or possible and not done yet, propose it: "Shall I book it for NAME?", "Shall I cancel it?",
"Shall I move it?", "Shall I reserve it for NAME?", "Shall I note it?". Without `results`, answer small talk kindly and
say what you can help with; refuse what is dangerous, against the law or about other customers.""",
    customer="""`else_...` is what you take when the first wish is not possible; `mind_...` is what you change
  your mind to when the first wish is proposed.""",
)
