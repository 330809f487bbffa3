"""How simulated customers talk whatever the trade: manners, agreement, correction, repetition, farewell. Data only."""

from typing import NamedTuple


class Manner(NamedTuple):
    """What a persona says before an opening at the start, before a later one and before an answer."""

    openings: tuple[str, ...]
    turns: tuple[str, ...]
    fillers: tuple[str, ...]
    terse: bool = False


MANNERS: dict[str, Manner] = {
    "plain": Manner(("", "", "", "Hi. "), ("Thanks. ", "OK. ", "Next, ", "Now, ", ""), ("", "", "", "OK. ")),
    "terse": Manner(("",), ("", "", "Next: "), ("",), terse=True),
    "chatty": Manner(
        ("Hi there! ", "Hello, hope you are well. ", "Hey! ", "So, ", "Well, ", "Hello there. "),
        ("Great, thanks! ", "Oh, and one more thing: ", "Wonderful. By the way, ", "Super! Next, "),
        ("Sure! ", "Of course, ", "Let me see. ", "Ah, ", ""),
    ),
    "polite": Manner(
        ("Good morning. ", "Hello. ", "Excuse me, ", "", "Good afternoon. "),
        ("Thank you. ", "Thank you very much. ", "Thanks, that helps. ", "Very kind. "),
        ("Certainly. ", "Of course. ", "", ""),
    ),
    "hesitant": Manner(
        ("Um, ", "Hmm, ", "Well, ", "Er, ", "I'm not sure how this works. "),
        ("OK, um, ", "Hmm, and ", "Alright. Now, ", "Thanks, I think. Er, "),
        ("Um, ", "Er, ", "Hmm, ", "Let me think. ", ""),
    ),
    "patient": Manner(
        ("Hello, there is no hurry. ", "Good morning, take your time. ", "Hello. When you have a moment: ", ""),
        ("Thank you, that is kind. ", "Thanks, no rush with this one. ", "Lovely. Now, ", "Thank you. "),
        ("Certainly. ", "Take your time. ", "Gladly. ", "", ""),
    ),
    "confused": Manner(
        ("Hello, I hope I am right here. ", "Er, ", "Oh dear, ", "I am a bit lost. ", "Hm, where do I begin? "),
        ("Oh, and, er, ", "Now I am lost again. ", "Hm, what else. ", "Right, er, ", "So, "),
        ("Er, ", "Let me see. ", "Ah, ", "Oh, that. ", ""),
    ),
    "haggling": Manner(
        ("Hi. ", "Hello, I hope for a bargain. ", "", "Let us talk business. "),
        ("All right. ", "OK. ", "Now, ", "Right, now the next thing. "),
        ("OK. ", "Fine. ", "", ""),
    ),
    "changing_mind": Manner(
        ("Hi. ", "Well, ", "", "Let me think. "), ("OK. ", "Right, ", "Now, ", ""), ("Hm, ", "Well, ", "", "")
    ),
    "multi_request": Manner(
        ("In a hurry: ", "Hi, quickly. ", "", "Two things at once. "),
        ("OK, next. ", "Now, ", "Quickly, ", ""),
        ("", "OK. "),
    ),
    "adversarial": Manner(
        ("Listen. ", "", "Hey. ", "I am in a hurry. "),
        ("Well. ", "Anyway, ", "Whatever. ", ""),
        ("Fine. ", "Well, ", ""),
    ),
    "non_native": Manner(
        ("Hello, sorry for my English. ", "Good day. ", "Hello, my friend. ", ""),
        ("Thank you. Now, ", "OK, I see. ", "Please, ", ""),
        ("Yes. ", "OK. ", "", ""),
    ),
}
PLAIN_MANNERS = ("plain", "terse", "chatty", "polite", "hesitant")
AGREE = (
    "Yes, please.", "Yes.", "Sure, go ahead.", "Yes, that works.", "Please do.", "Go ahead.", "OK, do it.",
    "Perfect, yes.", "That works for me.", "Sounds good.", "Yes, that's right.", "Absolutely.", "Of course.",
    "Yeah, please do.", "Okay, confirm it.", "Right, go ahead.", "Correct, thank you.", "Fine, yes.", "Great, do that.",
    "Yep.",
)  # fmt: skip
CORRECT = (
    "No, I meant {values}.", "No, I said {values}.", "That's wrong, it is {values}.", "Not quite: {values}.",
    "No, {values} please.", "Sorry, no, it should be {values}.", "That is not right, I said {values}.",
)  # fmt: skip
GREETINGS = (
    "Hi there!", "Hello!", "Hey, how are you?", "Good morning!", "Good afternoon!", "Hello, how are you today?",
    "Hi, nice to meet you.", "Good evening!", "Hey there!", "Hi, I hope you are well.",
    "Lovely weather today, isn't it?",
)  # fmt: skip
FAREWELLS = (
    "Thank you, bye!", "Thanks a lot, goodbye.", "That's all, thanks.", "Great, thank you very much!",
    "Thanks for your help.", "Perfect, thanks. Bye.", "Thank you, that was all.", "Cheers, bye.", "Many thanks!",
    "Thanks, have a nice day.", "Bye, thank you.", "All good, thanks.",
)  # fmt: skip
OFF_TOPIC = (
    "Can you recommend a pizza place?", "Can you book me a flight to Rome?", "Help me with my maths homework.",
    "Who won the football last night?", "I have a headache, what should I take?", "Should I invest in bitcoin?",
    "Can I rent a bicycle from you?", "What is 17 times 23?",
)  # fmt: skip
REPEATS = ("I said: ", "Once more: ", "In other words: ", "Let me try again. ", "Sorry, again: ", "As I said, ")
OFF_TOPIC_CUE = (
    r"pizza|restaurants?|flights?|hotels?|essay|homework|\d+ times \d+|football|match|recipes?|headache|dentist|"
    r"invest|shares|bitcoin|rent"
)
