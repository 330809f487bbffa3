"""The library's world and tools: seeded, isolated, transactional, and one reader for the last copy."""

from pathlib import Path

import pytest

from agentmill.agents.contracts import ExecutorTask
from agentmill.agents.executor import Executor
from agentmill.agents.settings import TeamSettings
from agentmill.agents.state import DialogueState
from agentmill.agents.team import Team
from agentmill.domains.base import Json, WorldSettings
from agentmill.domains.library_desk import build
from agentmill.domains.library_desk.canonical import canonical_plan
from agentmill.domains.library_desk.seed import (
    HELDOUT_SEEDS,
    MAX_HOLDS,
    MAX_OWED,
    TRAIN_SEEDS,
    Book,
    Reader,
    world_data,
)
from agentmill.domains.library_desk.tools import TOOLS
from agentmill.domains.library_desk.world import LibraryWorld
from agentmill.plans.sandbox import Sandbox

SEED = TRAIN_SEEDS[0]
DATA = world_data(SEED)


def call(world: LibraryWorld, tool: str, **arguments: object) -> Json:
    result: Json = TOOLS[tool].function(world, **arguments)
    return result


def readers(count: int = 1) -> list[Reader]:
    """Readers who may borrow and have nothing set aside."""
    return [row for row in DATA.readers if not row.owed and not DATA.holds_of(row.card)][:count]


def last_copy() -> Book:
    """A book of which one copy is in."""
    return next(book for book in DATA.books if book.lendable and DATA.free(book) == 1)


def test_worlds_are_pure_functions_of_their_seeds_and_held_out_ones_have_people_and_titles_of_their_own() -> None:
    assert vars(world_data.__wrapped__(SEED)) == vars(DATA)
    trained, held_out = (
        {text for seed in seeds for row in world_data(seed).books for text in (row.author, row.title)}
        for seeds in (TRAIN_SEEDS, HELDOUT_SEEDS)
    )
    assert len(trained & held_out) < 0.01 * len(held_out)


def test_no_copy_is_in_two_hands() -> None:
    for seed in (*TRAIN_SEEDS, *HELDOUT_SEEDS):
        data = world_data(seed)
        taken = [(loan.book, loan.copy) for loan in data.loans] + [(hold.book, hold.copy) for hold in data.holds]
        assert len(taken) == len(set(taken))
        assert all(data.free(book) >= 0 for book in data.books)


def test_every_conversation_has_a_copy_of_its_own_and_rollback_leaves_nothing() -> None:
    one, other = LibraryWorld(SEED), LibraryWorld(SEED)
    before = one.snapshot()
    call(one, "place_hold", book=last_copy().book, card=readers()[0].card)
    one.record("place_hold", {})
    assert len(one.snapshot()["holds"]) == 1
    assert other.snapshot()["holds"] == []
    one.rollback()
    assert one.snapshot() == before
    one.close()
    other.close()


def test_a_hold_is_placed_found_and_cancelled() -> None:
    world, book, reader = LibraryWorld(SEED), last_copy(), readers()[0]
    assert call(world, "check_copy", book=book.book) == {"holdable": True, "title": book.title}
    hold = call(world, "place_hold", book=book.book, card=reader.card)["hold"]
    assert call(world, "check_copy", book=book.book)["reason"] == "out"
    assert call(world, "get_book", book=book.book)["in"] == 0
    assert call(world, "find_hold", hold=hold, card=reader.card)["found"]
    assert not call(world, "find_hold", hold=hold, card="C000000")["found"]
    call(world, "cancel_hold", hold=hold, card=reader.card)
    assert call(world, "check_copy", book=book.book)["holdable"]
    assert world.snapshot()["cancelled"] == [hold]
    world.close()


def test_a_loan_is_renewed_once_by_three_weeks_unless_it_may_not_be() -> None:
    world = LibraryWorld(SEED)
    loan = next(row for row in DATA.loans if DATA.renewable(row) and row.renewals == 1)
    assert call(world, "check_renewal", book=loan.book, card=loan.card)["allowed"]
    assert call(world, "renew_loan", book=loan.book, card=loan.card)["due"] > loan.due
    assert call(world, "check_renewal", book=loan.book, card=loan.card)["reason"] == "too often"
    wanted = next(row for row in DATA.loans if row.renewals == 0 and not DATA.renewable(row))
    assert call(world, "check_renewal", book=wanted.book, card=wanted.card)["reason"] == "wanted"
    assert call(world, "check_renewal", book=loan.book, card="C000000")["reason"] == "unknown"
    assert world.snapshot()["renewed"] == [{"book": loan.book, "card": loan.card}]
    world.close()


def test_nothing_above_what_is_owed_can_be_paid() -> None:
    world, reader = LibraryWorld(SEED), next(row for row in DATA.readers if row.owed > 2)
    assert call(world, "fines_owed", card=reader.card) == {"amount": reader.owed}
    assert not call(world, "check_payment", card=reader.card, amount=reader.owed + 1)["allowed"]
    assert not call(world, "check_payment", card=reader.card, amount=0)["allowed"]
    assert call(world, "pay_fine", card=reader.card, amount=2)["left"] == reader.owed - 2
    assert world.snapshot()["payments"][0]["amount"] == 2
    world.close()


def test_the_world_refuses_what_a_plan_should_have_checked() -> None:
    world, book = LibraryWorld(SEED), last_copy()
    owing = next(row for row in DATA.readers if row.owed >= MAX_OWED)
    many = next(row for row in DATA.readers if len(DATA.holds_of(row.card)) == MAX_HOLDS)
    wanted = next(row for row in DATA.loans if not DATA.renewable(row))
    shelf = next(row for row in DATA.books if not row.lendable)
    refused: list[tuple[str, Json, str]] = [
        ("place_hold", {"book": book.book, "card": owing.card}, "check_account"),
        ("place_hold", {"book": book.book, "card": many.card}, "check_account"),
        ("place_hold", {"book": shelf.book, "card": readers()[0].card}, "check_copy"),
        ("place_hold", {"book": "B0000", "card": readers()[0].card}, "check_copy"),
        ("cancel_hold", {"hold": "H00000", "card": owing.card}, "find_hold"),
        ("renew_loan", {"book": wanted.book, "card": wanted.card}, "check_renewal"),
        ("pay_fine", {"card": owing.card, "amount": owing.owed + 1}, "check_payment"),
        ("pay_fine", {"card": owing.card, "amount": -5}, "check_payment"),
        ("opening_hours", {"day": "someday"}, "day of the week"),
    ]
    for tool, arguments, reason in refused:
        with pytest.raises(ValueError, match=reason):
            call(world, tool, **arguments)
    world.close()


async def test_of_two_readers_who_agree_to_the_last_copy_one_gets_it_and_one_a_correct_reply(tmp_path: Path) -> None:
    domain, book, settings = (
        build(),
        last_copy(),
        WorldSettings(url=f"sqlite:///{tmp_path / 'library.db'}", shared=True),
    )
    assert domain.expert is not None
    async with Sandbox() as sandbox:
        team = Team.local(domain, domain.expert(0.0), sandbox, TeamSettings(world=settings))
        replies = []
        sessions = [await team.start(reader.card, SEED) for reader in readers(2)]
        for session, reader in zip(sessions, readers(2), strict=True):
            asked = f"Reserve {book.book} please, card {reader.card}, PIN {reader.pin}."
            replies.append((await team.turn(session, asked, seed=1)).turn.reply)
        assert all(reply.endswith("Shall I set it aside for you?") for reply in replies)
        first, second = [(await team.turn(session, "Yes, please.", seed=1)).turn for session in sessions]
        holds = (await team.executor.snapshot(sessions[0].id))["holds"]
        for session in sessions:
            await team.executor.close(session.id)
    assert first.reply.startswith("Done, a copy of")
    assert (second.status, second.reply) == (
        "answered",
        f"{book.title} is out, so it is not possible to set it aside.",
    )
    assert [(row["book"], row["card"]) for row in holds] == [(book.book, readers(1)[0].card)]


async def test_a_hold_that_comes_too_late_in_the_very_same_moment_is_undone_and_only_checked(tmp_path: Path) -> None:
    """The copy goes between a plan's check and its change: the change fails and nothing of the plan remains."""
    book, reader = last_copy(), readers()[0]
    state = DialogueState(
        intent="place_hold", entities={"book": book.book, "card": reader.card, "pin": reader.pin}, confirmed=True
    )
    plan = canonical_plan(state.requests, state.entities, confirmed=True).replace(' and copy["holdable"]', "")
    async with Sandbox() as sandbox:
        executor = Executor(build(), sandbox)
        await executor.open("late", SEED)
        faster = {**state.entities, "card": readers(2)[1].card, "pin": readers(2)[1].pin}
        other = canonical_plan(("place_hold",), faster, confirmed=True)
        theirs = state.model_copy(update={"entities": faster})
        assert (await executor.run(ExecutorTask(session="late", plan=other, state=theirs))).error is None
        late = await executor.run(ExecutorTask(session="late", plan=plan, state=state))
        snapshot = await executor.snapshot("late")
        await executor.close("late")
    assert late.error is not None and "check_copy" in late.error
    assert len(snapshot["holds"]) == 1
