"""Which conversation a message list belongs to, and when conversations go."""

from agentmill.agents.contracts import Session
from rayserve.sessions import SessionStore, dialogue_digest, seeded_session
from rayserve.settings import SessionSettings


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def store(clock: Clock | None = None, **settings: float) -> SessionStore:
    return SessionStore(SessionSettings(**settings), clock or Clock())


def test_the_digest_sees_words_roles_order_and_owner_but_not_white_space() -> None:
    said = [("user", "Hi  there\n"), ("assistant", "Hello")]
    same = dialogue_digest([("user", "Hi there"), ("assistant", "Hello ")], "a")
    assert dialogue_digest(said, "a") == same
    others = [
        dialogue_digest(said, "b"),
        dialogue_digest(said[::-1], "a"),
        dialogue_digest([("assistant", "Hi there"), ("user", "Hello")], "a"),
        dialogue_digest([("user", "Hi thereHello")], "a"),
    ]
    assert len({same, *others}) == 5


def test_a_claimed_digest_is_used_up() -> None:
    kept = store()
    for name in ("one", "two"):
        kept.remember(kept.add(Session(id=name), 0), "digest")
    claimed = {conversation.session.id for conversation in (kept.claim("digest"), kept.claim("digest")) if conversation}
    assert claimed == {"one", "two"}
    assert kept.claim("digest") is None


def test_a_later_digest_replaces_the_earlier_one() -> None:
    kept = store()
    conversation = kept.add(Session(id="one"), 0)
    kept.remember(conversation, "first")
    kept.remember(conversation, "second")
    assert kept.claim("first") is None
    assert kept.claim("second") is conversation


def test_an_idle_conversation_expires_and_is_given_back_for_closing() -> None:
    clock = Clock()
    kept = store(clock, ttl_s=10)
    kept.remember(kept.add(Session(id="old"), 0), "digest")
    clock.now = 8.0
    kept.add(Session(id="young"), 0)
    clock.now = 11.0
    assert kept.find("old") is None
    assert kept.claim("digest") is None
    assert [conversation.session.id for conversation in kept.overdue()] == ["old"]
    assert kept.find("young") is not None


def test_use_keeps_a_conversation_and_a_turn_protects_it() -> None:
    clock = Clock()
    kept = store(clock, ttl_s=10)
    used, busy = kept.add(Session(id="used"), 0), kept.add(Session(id="busy"), 0)
    busy.waiting = 1
    clock.now = 9.0
    assert kept.find("used") is used
    clock.now = 15.0
    assert kept.overdue() == []
    assert kept.find("busy") is busy


def test_the_idlest_go_first_when_there_is_no_room() -> None:
    clock = Clock()
    kept = store(clock, max_count=3)
    for name in ("a", "b", "c"):
        clock.now += 1
        kept.add(Session(id=name), 0)
    kept.find("a")
    assert [conversation.session.id for conversation in kept.overdue()] == ["b"]


def test_what_was_removed_cannot_be_remembered_again() -> None:
    kept = store()
    conversation = kept.add(Session(id="one"), 0)
    kept.remove("one")
    kept.remember(conversation, "digest")
    assert kept.claim("digest") is None
    assert len(kept) == 0


def test_a_seeded_session_knows_the_last_reply_and_nothing_else() -> None:
    session = seeded_session(
        "one", [("user", "Hi"), ("assistant", "First"), ("user", "x"), ("assistant", "Which\nday?")]
    )
    assert (session.last_reply, session.state.intent, session.turn) == ("Which day?", "", 0)
