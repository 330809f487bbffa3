"""The entities and intents of the library's desk: what a reader may want and what must be known for it.

The order of the entity table is the order of entities in every JSON object of the Understander.
"""

from agentmill.domains.base import Entity, Intent

TITLE = "Harbour Street Library"
SAFE_REPLY = (
    "I am sorry, I did not get that right. Could you say it in other words? "
    "The colleagues at the desk can help you too."
)
FREE_TEXT_INTENTS = ("small_talk", "out_of_scope", "private_data")
SUBJECTS = (
    "history", "travel", "cooking", "gardening", "painting", "astronomy", "poetry", "crime", "fantasy", "biography",
)  # fmt: skip
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
READER = ("card", "pin")

ENTITIES: dict[str, Entity] = {
    entity.name: entity
    for entity in (
        Entity("author", str, "Which author are you looking for?", verbatim=True),
        Entity("subject", str, "Which subject or author are you looking for?", choices=SUBJECTS),
        Entity("book", str, "What is the number of the book?", verbatim=True, shared=True, refers=True),
        Entity("hold", str, "What is the number of your hold?", verbatim=True),
        Entity("amount", int, "How much would you like to pay?", refers=True),
        Entity("card", str, "What is your library card number?", verbatim=True, shared=True),
        Entity("pin", str, "What is your PIN?", verbatim=True, shared=True),
        Entity("day", str, "Which day do you mean?", choices=DAYS),
    )
}

INTENTS: dict[str, Intent] = {
    intent.name: intent
    for intent in (
        Intent(
            "find_books",
            "the reader looks for books by author or subject; ask for the subject if neither is known",
            tools=("search_catalogue",),
            optional=("author", "subject"),
            any_of=("subject", "author"),
            supplies=("book",),
        ),
        Intent(
            "book_details",
            "the reader asks about one book by its number, or whether a copy is in",
            tools=("get_book",),
            required=("book",),
        ),
        Intent(
            "place_hold",
            "the reader wants a copy of a book set aside",
            tools=("check_reader", "check_account", "check_copy", "place_hold"),
            required=("book", *READER),
            needs_confirmation=True,
        ),
        Intent(
            "cancel_hold",
            "the reader wants to cancel a hold",
            tools=("check_reader", "find_hold", "cancel_hold"),
            required=("hold", *READER),
            needs_confirmation=True,
        ),
        Intent(
            "renew_loan",
            "the reader wants to keep a book on loan for longer",
            tools=("check_reader", "check_account", "check_renewal", "renew_loan"),
            required=("book", *READER),
            needs_confirmation=True,
        ),
        Intent(
            "my_loans",
            "the reader asks what they have on loan",
            tools=("check_reader", "list_loans"),
            required=READER,
            supplies=("book",),
        ),
        Intent(
            "my_fines",
            "the reader asks what they owe",
            tools=("check_reader", "fines_owed"),
            required=READER,
            supplies=("amount",),
        ),
        Intent(
            "pay_fine",
            "the reader wants to pay an amount of what they owe",
            tools=("check_reader", "check_payment", "pay_fine"),
            required=("amount", *READER),
            needs_confirmation=True,
        ),
        Intent(
            "opening_hours",
            "the reader asks when the library is open on a day",
            tools=("opening_hours",),
            required=("day",),
        ),
        Intent("small_talk", "greetings, thanks, goodbyes, a change of mind"),
        Intent("out_of_scope", "anything that the library does not do"),
        Intent("private_data", "anything about another reader's loans, holds, fines or card"),
    )
}
