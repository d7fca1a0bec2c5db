"""What Telegram refuses ends as §5 of its errors says, and harms no other chat: O14."""

from collections.abc import Callable

import pytest
from sqlalchemy.engine import URL
from support.scene import Scene, Size, scene
from support.unreliable import FLOOD

from lifecycle.testing.telegram.http.refusals import DESCRIPTIONS, RefusedError

SENT, DEAD = 1, 2
FEW = Size(people=4, rate=25.0, seconds=1.0, lease=2.0, patience=40.0)

Row = Callable[..., None]


def refusal(code: int, **parameters: int) -> RefusedError:
    """Return a refusal in Telegram's words."""
    return RefusedError(code, DESCRIPTIONS.get(code, "Bad Request"), **parameters)


def to(played: Scene, chat: int) -> int:
    """Return how many messages have arrived in a chat."""
    return sum(each.chat == chat for each in played.telegram.arrived)


@pytest.mark.parametrize("code", [400, 403, 404, 413])
async def test_what_is_refused_for_good_is_dead(
    postgres_database: URL, row: Row, code: int
) -> None:
    """O14: what a chat refuses for good is dead, others get theirs, and it gets the later ones."""
    async with scene(postgres_database, FEW) as played:
        telegram = played.telegram
        chat = telegram.chats[0]
        telegram.refusals[chat] = refusal(code)
        await played.talk()
        await played.settled()
        states, before = await played.books.states(), len(telegram.arrived)
        verdict = await played.verdict()
        assert verdict.wrong("messages_lost") == {}
        assert to(played, chat) == 0
        assert states[DEAD] == verdict.messages_lost > 0
        assert set(states) == {SENT, DEAD}
        assert played.replicas.count("message.dead") == states[DEAD]
        assert played.replicas.count("chat.blocked") == (states[DEAD] if code == 403 else 0)
        telegram.refusals.clear()
        while not to(played, chat):
            await played.talk(seconds=0.5)
            await played.settled()
        assert (await played.books.states())[DEAD] == states[DEAD]
    row(
        "O14",
        load=f"a chat refuses with {code}",
        result=f"{states[DEAD]} dead, {before} of the other chats arrived; afterwards all arrive",
    )


async def test_a_chat_that_has_to_wait_holds_nobody_up(postgres_database: URL, row: Row) -> None:
    """O14: after 429 a chat waits as long as it is told to, and the others do not."""
    async with scene(postgres_database, FEW) as played:
        telegram = played.telegram
        chat = telegram.chats[0]
        telegram.refusals[chat] = refusal(FLOOD["error_code"], retry_after=FLOOD["retry_after"])
        await played.talk()
        # It is refused until all others have theirs, so nobody can have waited for it.
        while (verdict := await played.verdict()).messages_lost > await waiting(played, chat):
            await played.talk(seconds=0.1)
        assert to(played, chat) == 0
        telegram.refusals.clear()
        verdict = await played.settled()
        states = await played.books.states()
    assert (verdict.wrong(), verdict.duplicates, telegram.hasty) == ({}, 0, 0)
    assert set(states) == {SENT}
    row(
        "O14",
        load="429 of one chat until all others have got their messages",
        result=f"{states[SENT]} arrived, each once and in order, none before its time",
    )


async def waiting(played: Scene, chat: int) -> int:
    """Return how many committed messages to a chat there are."""
    entries = await played.books.entries()
    return sum(1 + each.key % 2 for each in entries if each.chat == chat)


async def test_a_storm_passes(postgres_database: URL, row: Row) -> None:
    """O14: when each chat has to wait, nothing is sent before its time, and all of it arrives."""
    async with scene(postgres_database, FEW) as played:
        telegram = played.telegram
        telegram.trouble = {"429": 0.5}
        await played.talk(seconds=2)
        telegram.trouble = {}
        verdict = await played.settled()
    assert (verdict.wrong(), verdict.duplicates, telegram.hasty) == ({}, 0, 0)
    row(
        "O14",
        load=f"429 of all chats, {telegram.troubles['429']} ×",
        result=f"{len(telegram.arrived)} arrived, each once and in order, none before its time",
    )


async def test_a_wrong_token_kills_no_message(postgres_database: URL, row: Row) -> None:
    """O14: while the bot's token is refused nothing dies, and once it is right all arrives."""
    async with scene(postgres_database, FEW) as played:
        telegram = played.telegram
        telegram.refusals = dict.fromkeys(telegram.chats, refusal(401))
        await played.talk()
        assert set(await played.books.states()) == {0}
        telegram.refusals.clear()
        for each in played.replicas.serving:  # each would wait for up to 30 s
            await each.kill()
            await played.replicas.begin()
        verdict = await played.settled()
    assert (verdict.wrong(), verdict.duplicates) == ({}, 0)
    row("O14", load="401", result=f"{len(telegram.arrived)} arrived, in order, once it was over")


async def test_a_chat_that_has_moved_is_followed(postgres_database: URL, row: Row) -> None:
    """O14: what a group refuses because it has become a supergroup arrives there, in order."""
    async with scene(postgres_database, FEW) as played:
        telegram = played.telegram
        old, new = telegram.chats[0], telegram.group(-1001, "Moved").id
        telegram.refusals[old] = refusal(400, migrate_to_chat_id=new)
        await played.talk()
        await played.settled()
        moved = [each for each in telegram.arrived if each.chat == new]
        telegram.arrived = [
            each._replace(chat=old) if each in moved else each for each in telegram.arrived
        ]
        verdict = await played.verdict()
    assert (verdict.wrong(), verdict.duplicates) == ({}, 0)
    assert moved
    assert played.replicas.count("chat.migrated")
    row("O14", load="a chat has moved", result=f"{len(moved)} arrived in the new one, in order")
