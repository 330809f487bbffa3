"""How the simulated customers talk: the phrasings of every act. Data only; `user.py` chooses and fills them in.

`{braces}` are filled with values as a customer writes them. The expert Understander reads this grammar completely
(`reading.py`), which a test holds over thousands of utterances.
"""

FIND_VAGUE = (
    "I'm looking for a car.", "I want to buy a car.", "Can you help me find a car?", "I need a new car.",
    "Show me what cars you have.", "I would like to buy a car.", "Do you have any cars for sale?",
    "I'm interested in a car.", "Looking for a car.", "Could you find me a car?", "We need a car.",
    "I'd like to see some cars.", "Have you got any nice cars?", "I'm in the market for a car.",
    "My wife and I are looking for a car.",
)  # fmt: skip
FIND = (
    "I'm looking for {car}.", "Do you have {car}?", "Show me {car}.", "I want to buy {car}.",
    "I'd like to buy {car}.", "Have you got {car} in stock?", "Can you find me {car}?", "I need {car}.",
    "We are thinking of buying {car}.", "Could you search for {car}?", "I'm interested in {car}.",
    "Searching for {car}.", "My family needs {car}.", "Is there {car} on your lot?", "Looking for {car}.",
    "I'm in the market for {car}.", "Can I see {car}?", "We'd love to find {car}.",
)  # fmt: skip
PRICE = ("under {p}", "below {p}", "up to {p}", "for at most {p}", "for no more than {p}", "with a budget of {p}",
         "for less than {p}", "with a maximum of {p}")  # fmt: skip
NO_PREFERENCE = ("I don't mind, just {car}.", "No preference, {car} would do.", "Any kind, but {car}.",
                 "It doesn't matter, {car} is fine.")  # fmt: skip

REFINE = ("Only {x} please.", "And {x}?", "Can it be {x}?", "It should be {x}.", "I'd rather have {x}.",
          "What about {x}?", "Also, {x} please.", "Ideally {x}.", "I forgot to say: {x}.")  # fmt: skip

DETAILS_VAGUE = (
    "Can you tell me more about a car?", "I have a question about one of your cars.", "I'd like some details of a car.",
    "I saw a car online, can you tell me about it?", "I want to know more about a car on your site.",
    "Could you describe a car for me?",
)  # fmt: skip
DETAILS = (
    "Tell me about {stock}.", "Can you give me the details of {stock}?", "What can you tell me about {stock}?",
    "I'd like to know more about {stock}.", "More information on {stock}, please.", "What is stock {stock} like?",
    "I saw {stock} online, can you describe it?", "Could you describe car {stock}?", "Any details on {stock}?",
    "I want to know everything about stock number {stock}.", "Info on {stock}?", "Let me have the specs of {stock}.",
    "How much is {stock} and what is its mileage?", "What does {stock} cost?", "What colour is {stock}?",
    "Is {stock} a nice car? Tell me more.",
)  # fmt: skip

BOOK = (
    "I'd like to book a test drive{what}.", "Can I book a test drive{what}?", "I want a test drive{what}.",
    "Could I have a test drive{what}?", "Please book me a test drive{what}.", "I'd love a test drive{what}.",
    "Can you arrange a test drive{what}?", "Is a test drive possible{what}?", "Schedule a test drive{what}.",
    "I would like to schedule a test drive{what}.", "How about a test drive{what}?", "Test drive{what}.",
    "We want to take a test drive{what}.", "May I reserve a test drive{what}?", "Could you set up a test drive{what}?",
)  # fmt: skip
BOOK_IT = (
    "Can I test drive it{when}?", "I'd like to test drive that car{when}.", "Could I take it for a test drive{when}?",
    "I want to book a test drive of this one{when}.", "Please book me a test drive of it{when}.",
    "I like it, can I have a test drive{when}?",
)  # fmt: skip
OF_STOCK = (" of {stock}", " with {stock}", " for {stock}", " in the {stock}", " of stock number {stock}")

CHECK_VAGUE = (
    "I'd like to check my booking.", "When is my test drive?", "Can you look up my booking?",
    "What did I book with you?", "I forgot when my test drive is.", "Could you check my test drive booking?",
)  # fmt: skip
CHECK = (
    "Can you check my booking {reference}?", "When is my test drive {reference}?", "Look up my booking {reference}.",
    "What is my booking {reference}?", "I forgot the time of my booking {reference}.",
    "Could you check what is booked under {reference}?", "My booking is {reference}, when is it?",
    "Which car is my booking {reference} for?", "I want to check my booking, reference {reference}.",
    "Please look up my test drive, the reference is {reference}.", "Is my booking {reference} still on?",
    "Can you tell me the details of my booking {reference}?", "Remind me of my booking {reference}.",
    "What day is my test drive {reference}?", "Check my booking {reference}.",
)  # fmt: skip

CANCEL_VAGUE = (
    "I need to cancel my test drive.", "Can I cancel a booking?", "Please cancel my test drive.",
    "I want to cancel my booking.", "I can't make it to my test drive, please cancel it.", "I'd like to cancel.",
    "Something came up, I have to cancel my test drive.",
)  # fmt: skip
CANCEL = (
    "Please cancel my booking {reference}.", "I need to cancel {reference}.", "Cancel test drive {reference}.",
    "Can you cancel {reference} for me?", "I want to cancel my test drive, reference {reference}.",
    "I can't make it, cancel {reference}.", "I'd like to cancel booking {reference}.", "Could you cancel {reference}?",
    "Something came up, please cancel {reference}.", "I have to cancel my test drive {reference}.",
    "My plans changed, can you cancel {reference}?", "Cancel my reservation {reference}.",
    "We won't come, please cancel {reference}.", "Is it possible to cancel {reference}?", "Cancel {reference}.",
)  # fmt: skip
CANCEL_IT = ("Please cancel it.", "I need to cancel it.", "Can you cancel that booking?", "I'd like to cancel it.",
             "Then cancel it.", "Could you cancel it for me?")  # fmt: skip

HOURS_VAGUE = ("What are your opening hours?", "When are you open?", "How long are you open?", "Are you open late?",
               "What time do you close?")  # fmt: skip
HOURS = (
    "When are you open on {day}?", "What are your opening hours on {day}?", "Are you open on {day}?",
    "How late are you open on {day}?", "What time do you close on {day}?", "Until when are you open on {day}?",
    "When do you open on {day}?", "Your hours on {day}?", "What are the hours for {day}?", "Open on {day}?",
    "Can you tell me the opening hours for {day}?", "Is the dealership open on {day}?", "Do you open on {day}?",
    "I'd like to know when you close on {day}.", "From when are you open on {day}?",
)  # fmt: skip

TRADE = (
    "I want to trade in my {own}.", "What is my {own} worth?", "How much would you pay for my {own}?",
    "I'd like to trade in a {own}.", "Can you value my {own}?", "What would I get for my {own}?",
    "I have a {own} to trade in.", "Could you give me an estimate for my {own}?", "I'm selling my {own}.",
    "What's the trade-in value of my {own}?", "Thinking of trading in my {own}.", "Would you buy my {own}?",
    "Give me a trade-in price for my {own}.", "How much is my {own} worth?", "Please value my {own}.",
)  # fmt: skip
HAS_MILES = (" with {mileage}", ", it has {mileage} on it", ", {mileage}", " that has done {mileage}")
IN_CONDITION = (" in {condition} condition", ", condition {condition}", ", it is in {condition} shape")

ANSWERS: dict[str, tuple[str, ...]] = {
    "body": ("A {body}.", "{body}", "A {body} please.", "I'd prefer a {body}.", "Something like a {body}.",
             "A {body} would be good.", "I think a {body}.", "Preferably a {body}."),
    "stock": ("{stock}", "It's {stock}.", "The stock number is {stock}.", "Stock number {stock}.", "That's {stock}.",
              "I mean {stock}.", "{stock} please.", "The one with {stock}.", "Number {stock}.", "It is {stock}."),
    "day": ("{day}", "On {day}.", "{day} please.", "{day} would be best.", "Let's say {day}.", "How about {day}?",
            "{day} works for me.", "I can come on {day}.", "I am free on {day}.", "Make it {day}."),
    "time": ("{time}", "At {time}.", "{time} please.", "{time} would be best.", "Let's say {time}.",
             "How about {time}?", "{time} works for me.", "I can come at {time}.", "Make it {time}.", "Around {time}."),
    "name": ("{name}", "It's {name}.", "My name is {name}.", "I'm {name}.", "{name} is my name.", "This is {name}.",
             "The name is {name}.", "Put it under {name}.", "Name: {name}.", "I am {name}."),
    "licence": ("{licence}", "It's {licence}.", "My licence number is {licence}.", "The licence is {licence}.",
                "Licence {licence}.", "That would be {licence}.", "Here it is: {licence}.", "Number {licence}.",
                "My driving licence is {licence}.", "It says {licence}."),
    "reference": ("{reference}", "It's {reference}.", "The reference is {reference}.", "My reference is {reference}.",
                  "Reference {reference}.", "That would be {reference}.", "Here it is: {reference}.",
                  "Number {reference}.", "The email says {reference}.", "It is {reference}."),
    "make": ("{make}", "It's a {make}.", "A {make}.", "It is a {make}.", "I drive a {make}.", "The make is {make}."),
    "model": ("{model}", "It's the {model}.", "The {model}.", "It is a {model}.", "The model is {model}.",
              "A {model}."),
    "year": ("{year}", "It's from {year}.", "{year} I think.", "It was built in {year}.", "A {year} one.",
             "I bought it new in {year}."),
    "mileage": ("{mileage}", "It has done {mileage}.", "About {mileage}.", "It has {mileage}.", "Roughly {mileage}.",
                "{mileage} so far."),
    "condition": ("{condition}", "I'd say {condition}.", "It's {condition}.", "In {condition} condition.",
                  "The condition is {condition}.", "Honestly, {condition}."),
}  # fmt: skip
PAIRS: dict[tuple[str, str], tuple[str, ...]] = {
    ("day", "time"): ("{day} at {time}.", "On {day} at {time}.", "{day}, {time}.", "How about {day} at {time}?",
                      "{day} at {time} please.", "I could come on {day} at {time}."),
    ("name", "licence"): ("{name}, licence {licence}.", "I'm {name} and my licence is {licence}.",
                          "{name}, {licence}", "My name is {name}, licence number {licence}.",
                          "It's {name}, driving licence {licence}."),
    ("make", "model"): ("A {make} {model}.", "It's a {make} {model}.", "{make} {model}", "I drive a {make} {model}.",
                        "My car is a {make} {model}."),
    ("model", "year"): ("It's a {model} from {year}.", "The {model}, {year}.", "{model}, built in {year}."),
    ("year", "mileage"): ("{year}, with {mileage}.", "It's from {year} and has {mileage}.", "{year}, {mileage}",
                          "Built in {year}, it has done {mileage}."),
    ("mileage", "condition"): ("{mileage}, {condition} condition.", "It has {mileage} and is in {condition} shape.",
                               "{mileage} and {condition} I'd say."),
    ("stock", "day"): ("{stock}, on {day}.", "It's {stock}, and {day} would be best.", "{stock} on {day} please."),
}  # fmt: skip

AGREE = ("Yes, please.", "Yes.", "Sure, go ahead.", "Yes, that works.", "Please do.", "Go ahead.", "OK, do it.",
         "Perfect, yes.", "That works for me.", "Sounds good.", "Yes, that's right.", "Absolutely.", "Of course.",
         "Yeah, please do.", "Okay, confirm it.", "Right, go ahead.", "Correct, thank you.", "Fine, yes.",
         "Great, do that.", "Yep.")  # fmt: skip
OTHER_SLOT = ("Then {slot} please.", "OK, what about {slot}?", "How about {slot} instead?", "Could we do {slot}?",
              "Let's take {slot} then.", "Then {slot}.", "I can also come {slot}.", "In that case {slot}.",
              "{slot} would be fine too.", "Is {slot} possible?", "Hm, {slot} then.", "Let's make it {slot}.",
              "Can we say {slot}?", "{slot} instead please.", "Pity, then {slot}.")  # fmt: skip
CORRECT = ("No, I meant {values}.", "No, I said {values}.", "That's wrong, it is {values}.", "Not quite: {values}.",
           "No, {values} please.", "Sorry, no, it should be {values}.",
           "That is not right, I said {values}.")  # fmt: skip
SELF = ("I'm {name}. ", "This is {name}. ", "My name is {name}. ")
GREETINGS = ("Hi there!", "Hello!", "Hey, how are you?", "Good morning!", "Good afternoon!",
             "Hello, how are you today?",
             "Hi, nice to meet you.", "Good evening!", "Hey there!", "Hello, is anybody there?", "Hi!",
             "Hi, are you a real person?", "Hello, good to be here.", "Hey!", "Hi, I hope you are well.")  # fmt: skip
WEATHER = ("Lovely weather today, isn't it?", "What a rainy day.", "It is so cold today!", "Nice sunny day today.",
           "How is the weather over there?")  # fmt: skip
PRAISE = ("You have a nice website.", "I like your showroom.", "A friend told me that you are great.",
          "You are very friendly, by the way.", "I enjoyed my last visit, nice people.")  # fmt: skip
FAREWELLS = ("Thank you, bye!", "Thanks a lot, goodbye.", "That's all, thanks.", "Great, thank you very much!",
             "Thanks for your help.", "Perfect, thanks. Bye.", "Thank you, that was all.", "Cheers, bye.",
             "Many thanks!", "Thanks, have a nice day.", "Bye, thank you.", "All good, thanks.", "Thank you so much.",
             "Thanks, see you soon.", "That was everything, thank you.")  # fmt: skip
OFF_TOPIC: dict[str, tuple[str, ...]] = {
    "restaurant": ("Can you recommend a pizza place?", "Where can I eat well near you?", "Is there a good restaurant?"),
    "flight": ("Can you book me a flight to Rome?", "How much is a plane ticket to Oslo?", "Find me a cheap hotel."),
    "homework": ("Can you write an essay for my son?", "Help me with my maths homework.", "What is 17 times 23?"),
    "football": ("Who won the football last night?", "What was the score of the match?", "Who is the best striker?"),
    "recipe": ("How do I bake bread?", "Do you know a good soup recipe?", "How long do I boil an egg?"),
    "doctor": ("I have a headache, what should I take?", "Can you find me a dentist?", "Is my cough dangerous?"),
    "stocks": ("Should I invest in gold?", "Which shares are going up?", "What do you think of bitcoin?"),
    "rental": ("Can I rent a bicycle from you?", "Do you rent out boats?", "Do you repair washing machines?"),
}

OPENINGS: dict[str, tuple[str, ...]] = {
    "plain": ("", "", "", "Hi. "),
    "terse": ("",),
    "chatty": ("Hi there! ", "Hello, hope you are well. ", "Hey! ", "So, ", "Well, ", "Hello there. "),
    "polite": ("Good morning. ", "Hello. ", "Excuse me, ", "", "Good afternoon. "),
    "hesitant": ("Um, ", "Hmm, ", "Well, ", "Er, ", "I'm not sure how this works. "),
}
TURNS: dict[str, tuple[str, ...]] = {
    "plain": ("Thanks. ", "OK. ", "And ", "Also, ", ""),
    "terse": ("", "", "Next: "),
    "chatty": ("Great, thanks! ", "Oh, and one more thing: ", "Wonderful. By the way, ", "Super! Next, "),
    "polite": ("Thank you. ", "Thank you very much. ", "Thanks, that helps. ", "Very kind. "),
    "hesitant": ("OK, um, ", "Hmm, and ", "Alright. Then, ", "Thanks, I think. Er, "),
}
FILLERS: dict[str, tuple[str, ...]] = {
    "plain": ("", "", "", "OK. "),
    "terse": ("",),
    "chatty": ("Sure! ", "Of course, ", "Let me see. ", "Ah, ", ""),
    "polite": ("Certainly. ", "Of course. ", "", ""),
    "hesitant": ("Um, ", "Er, ", "Hmm, ", "Let me think. ", ""),
}
AFTER_TALK = ("", "", "So, ", "Well, ", "OK. ", "Alright. ", "I see. ", "Anyway, ")
REPEATS = ("I said: ", "Once more: ", "In other words: ", "Let me try again. ", "Sorry, again: ", "As I said, ")
