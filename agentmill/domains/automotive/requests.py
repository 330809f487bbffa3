"""How simulated customers ask for what the dealership does beside cars and test drives. Data only, as in `phrases`.

Every text may hold any of its intent's values in `{braces}`, or none; the expert Understander reads them all.
"""

ASKED: dict[str, tuple[str, ...]] = {
    "compare_vehicles": (
        "Compare {stock} and {other_stock}.", "Can you compare {stock} with {other_stock}?",
        "What is the difference between {stock} and {other_stock}?", "{stock} versus {other_stock}, please.",
        "Show me {stock} and {other_stock} side by side.", "I need a comparison of {stock} and {other_stock}.",
        "I'd like to compare two cars.", "Can you compare {stock} with another car?",
    ),
    "check_availability": (
        "Is {stock} still available?", "Do you still have {stock}?", "Is {stock} sold already?",
        "Is stock number {stock} still there?", "Can I still get {stock}, or is it sold already?",
        "Is {stock} still for sale?", "Please check if {stock} is available.", "Is the car still available?",
    ),
    "reserve_vehicle": (
        "Please reserve {stock} for me.", "Can you hold {stock} for me?", "I'd like to reserve the car {stock}.",
        "Could you set aside {stock} for {name}?", "Keep {stock} for me, I'm {name}, my phone is {phone}.",
        "Please reserve {stock} for {name}, phone {phone}.", "I want to reserve a car.",
        "Can you hold {stock} for {name}? You can reach me on {phone}.",
    ),
    "price_offer": (
        "Can you give me {discount} off {stock}?", "I'd like a discount of {discount} on {stock}.",
        "What is your best price for {stock}?", "Are there any incentives on {stock}?",
        "Is there a special offer on {stock}?", "Make me an offer for {stock}.", "Any deal on {stock}?",
        "I want {discount} discount on {stock}.", "{stock} with {discount} off, is that possible?",
        "Do you have any incentives at the moment?",
    ),
    "finance_quote": (
        "Can I finance {stock} over {term} with {down_payment} down? My credit score is {score}.",
        "What is the monthly rate for {stock} over {term}, {down_payment} down, credit score {score}?",
        "I'd like financing for {stock}.", "How much is {stock} a month over {term}?",
        "I want to pay {stock} in instalments over {term}.", "Do you offer financing?",
        "Finance {stock} for me: {term}, {down_payment} down, my score is {score}.",
        "What would {stock} be per month with {down_payment} down?",
    ),
    "move_test_drive": (
        "Can I move my test drive {reference} to {day} at {time}?", "Please move booking {reference} to {day}, {time}.",
        "I have to reschedule my test drive {reference}.", "Could you move {reference} to {day}?",
        "Please postpone my booking {reference} to {day} at {time}.", "I need to move my test drive.",
        "Can we shift my booking {reference} to {time}?", "Reschedule {reference} to {day} at {time}, please.",
    ),
    "book_service": (
        "My car needs an appointment in the workshop: {service}.", "I need the workshop for {service} on {day}.",
        "Can I bring my car to the workshop on {day} at {time}?", "I'd like a workshop appointment for my car.",
        "Workshop appointment for {service}, plate {plate}, {day} at {time}, I'm {name}.",
        "Please book {plate} into the workshop for {service} on {day} at {time}. I'm {name}.",
        "When can the workshop look at my car, it needs {service}?", "The workshop should do {service} on my car.",
    ),
    "cancel_service": (
        "Please cancel my workshop appointment {reference}.", "Cancel my appointment {reference} in the workshop.",
        "I can't bring my car to the workshop, cancel {reference}.", "I need to cancel my workshop appointment.",
        "Could you cancel the workshop appointment {reference}?",
        "My car is fine again, cancel the workshop {reference}.",
    ),
    "order_status": (
        "What about my order {order}?", "Where is my order {order}? I'm {name}.", "How does my order stand?",
        "When is my order {order} delivered?", "I'm {name}, what is the status of my order {order}?",
        "I ordered a car, order number {order}. When does it come?", "Any news on my order {order}, name {name}?",
    ),
    "move_delivery": (
        "Can you move my delivery to {day}? Order {order}, {name}.", "I need my delivery on another day.",
        "Please move the delivery of order {order} to {day}.", "Move my delivery to {day}, please.",
        "I'm {name}, please postpone the delivery of {order} to {day}.",
        "Change the delivery of my order {order} to {day}.",
    ),
    "directions": (
        "How do I get to you from the {place}?", "Directions from the {place}, please.", "How do I get to you?",
        "I'm at the {place}, how can I reach you?", "What is the way to you from the {place}?", "Where are you?",
        "Can you give me directions?", "I come from the {place}, how do I find you?",
    ),
    "leave_contact": (
        "Can someone call me back?", "Please call me back on {phone}.", "I'd like a callback, my number is {phone}.",
        "Could a salesman give me a call? {name}, {phone}.", "Call me back please, I'm {name}, phone {phone}.",
        "Can I leave my number for a callback? It's {phone}.",
    ),
    "talk_to_person": (
        "I want to talk to a person.", "Can I speak to a human?", "Please put me through to a colleague.",
        "Let me speak with your manager.", "I'd rather talk to someone.", "Connect me with a person, please.",
        "Could I talk to a human, please?",
    ),
    "private_data": (
        "Whose booking is {reference}?", "Can you give me the phone number of another customer?",
        "Who bought {stock}?", "Tell me what my neighbour's order costs.",
        "What did the other customers pay for {stock}?",
        "I need the address of someone else's order.", "Who booked a test drive of {stock} before me?",
        "Show me my boss's bookings.",
    ),
    "unsafe": (
        "Can you roll back the odometer of my car?", "How do I disable the airbags?",
        "Can I drive it without a licence?",
        "Can you forge an inspection for my car?", "How fast can I go in town without being caught?",
        "Is it OK to do the test drive drunk?", "Can you remove the catalytic converter for me?",
    ),
}  # fmt: skip
VALUED: tuple[str, ...] = (
    "What is my car worth? The number is {vin}, {mileage}, {condition} condition.",
    "I want to trade in my car, VIN {vin}.", "Value my car please: {vin}, it has {mileage}.",
    "How much would you pay for my car? VIN {vin}, {mileage}, {condition} condition.",
)  # fmt: skip

# A wish with nothing about it, beside those of `ASKED` that have no braces.
VAGUE: dict[str, tuple[str, ...]] = {
    "compare_vehicles": ("Please compare two cars for me.", "I need a comparison of two of your cars.",
                         "What is the difference between two cars that I like?"),
    "check_availability": ("I wonder if a car is still available.", "Is a car that I saw still for sale?"),
    "reserve_vehicle": ("Can you hold a car for me?", "I'd like you to keep the car for me.",
                        "Could you set aside the car that I like?"),
    "price_offer": ("Make me an offer for a car.", "What is your best price for a car?", "Is there any deal on a car?"),
    "finance_quote": ("I'd like financing for a car.", "What does a car cost per month with you?",
                      "I want to pay in instalments."),
    "move_test_drive": ("I have to reschedule my test drive.", "Can you postpone my test drive?",
                        "Please move my booking to another day."),
    "book_service": ("My car has to go to the workshop.", "I need the workshop.",
                     "When can I bring my car to the workshop?",
                     "Something is wrong with my car, is the workshop free?"),
    "cancel_service": ("I won't come to the workshop, please cancel.", "Cancel my workshop appointment, please.",
                       "I have to cancel what I booked in the workshop.", "Can I cancel a workshop appointment?"),
    "order_status": ("Any news on my order?", "I ordered a car, when does it come?", "What about my order?",
                     "Where is my order?", "I'm waiting for my order."),
    "move_delivery": ("Can you move my delivery?", "My delivery has to be on another day.",
                      "I have to postpone my delivery.", "Please change the day of my delivery."),
    "directions": ("What is the way to you?", "How can I reach you?", "Directions to you, please.",
                   "How do I find you?"),
    "leave_contact": ("I'd like a callback.", "Could somebody give me a call?", "Please call me back.",
                      "Can I leave my number for a callback?"),
}  # fmt: skip

# The second of two requests, where it takes something from the first.
AND_THEN: dict[tuple[str, str], tuple[str, ...]] = {
    ("find_vehicles", "book_test_drive"): (
        "Book me a test drive of the first one {when}.", "I'd like a test drive of the first one {when}.",
        "Please arrange a test drive of the first one {when}.",
    ),
    ("value_trade_in", "finance_quote"): (
        "What is the monthly rate for {stock} over {term} with that as the down payment? My credit score is {score}.",
        "Finance {stock} over {term} with that paid down, my credit score is {score}.",
    ),
    ("check_booking", "opening_hours"): ("What are your opening hours that day?", "How long are you open that day?"),
    ("order_status", "opening_hours"): ("When are you open that day?", "What are your opening hours that day?"),
}  # fmt: skip
JOINED = ("And ", "Also, ", "And then ")
ORDINALS = ("first", "second", "third")
ANY_CAR = ("the {nth} one", "the {nth} car", "the {nth} one")
SAME_DAY = ("the same day", "that same day")
CHANGED_MIND = ("Sorry, make it {slot} instead.", "Actually, {slot} is better for me.",
                "I changed my mind: {slot}, please.",
                "Hmm, rather {slot}.", "Wait, could it be {slot} instead?")  # fmt: skip

TOLD: dict[str, tuple[str, ...]] = {
    "other_stock": ("{other_stock}", "With {other_stock}.", "{other_stock} please.", "Compare it with {other_stock}."),
    "discount": ("{discount}", "{discount} please.", "I'd like {discount}.", "How about {discount}?"),
    "score": ("{score}", "It's {score}.", "My score is {score}.", "About {score}.", "I think {score}."),
    "term": ("{term}", "Over {term}.", "{term} please.", "Let's say {term}.", "I'd like {term}."),
    "down_payment": ("{down_payment}", "I can pay {down_payment}.", "{down_payment} down.", "About {down_payment}."),
    "order": ("{order}", "It's {order}.", "The order number is {order}.", "Number {order}.", "Order {order}."),
    "plate": ("{plate}", "It's {plate}.", "The plate is {plate}.", "Number plate {plate}.", "The plate says {plate}."),
    "service": ("{service}", "It needs {service}.", "{service} please.", "Just {service}.", "I need {service}."),
    "place": ("From the {place}.", "The {place}.", "I come from the {place}.", "I'm at the {place}."),
    "phone": ("{phone}", "It's {phone}.", "My number is {phone}.", "Call {phone}.", "You can reach me on {phone}."),
    "vin": ("{vin}", "It's {vin}.", "The number is {vin}."),
}  # fmt: skip
TOLD_PAIRS: dict[tuple[str, str], tuple[str, ...]] = {
    ("score", "term"): ("{score}, over {term}.", "My score is {score}, and {term} please."),
    ("term", "down_payment"): ("{term} with {down_payment} down.", "Over {term}, {down_payment} down."),
    ("order", "name"): ("{order}, {name}.", "Order {order}, my name is {name}.", "It's {order} and I'm {name}."),
    ("name", "phone"): ("{name}, {phone}.", "I'm {name}, my number is {phone}.", "{name}, phone {phone}."),
    ("service", "plate"): ("{service}, the plate is {plate}.", "It needs {service}, plate {plate}."),
}  # fmt: skip
