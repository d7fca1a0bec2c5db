"""`db-manager delivery` with broadcasts: how far each is, and what may be done about it."""

import pytest
from aiogram import Bot
from aiogram.methods import SendMessage
from sqlalchemy import BigInteger, Select, column, literal, select, union_all
from sqlalchemy.engine import URL
from support.asking import Ask
from support.kept import PATIENCE, Kept, kept

from db_manager.delivery import EACH
from lifecycle.testing import BotApiServer


@pytest.fixture(params=["sqlite", "asyncpg"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own: the command asks no driver for anything special."""
    kind = "sqlite" if request.param == "sqlite" else "postgres"
    found: URL = request.getfixturevalue(f"{kind}_database")
    return found


def to(*chats: int) -> Select[int]:
    """Return a SELECT of these chats."""
    rows = [select(literal(chat, BigInteger).label("chat")) for chat in chats]
    return select(column("chat", BigInteger)).select_from(union_all(*rows).subquery())


async def begin(app: Kept, bot: Bot, *chats: int) -> int:
    """Begin a broadcast."""
    async with app.units() as uow:
        return await uow.broadcast(SendMessage(chat_id=EACH, text="Hi.").as_(bot), to=to(*chats))


def refusal(lines: list[str]) -> str:
    """Return what is said first of what was not done."""
    assert lines[-1] == "nothing was changed"
    return lines[0].removeprefix("db-manager delivery: ")


def told(lines: list[str]) -> list[str]:
    """Return what is said of broadcasts."""
    return [line[11:] for line in lines if line[11:12] == "b"]


async def test_a_running_one_has_a_bar_and_the_time_that_is_left(
    url: URL, bot: Bot, ask: Ask
) -> None:
    """What is done of it, and the rest at the rate; two of one bot share that."""
    async with kept(url) as app:  # nobody sends
        for number in (1, 2):
            assert await begin(app, bot, 7, 8) == number
        await app.sql("UPDATE delivery__broadcast SET total = 1000 * (id + 1)")
        await app.sql("UPDATE delivery__broadcast SET sent = 890, blocked = 110 WHERE id = 1")
        code, lines = await ask()
    assert code == 0
    assert told(lines) == [
        "b1: running, 1,000 of 2,000: 890 sent, 110 blocked; [##########..........] 80 s left",
        "b2: running, 0 of 3,000; [....................] 4 min left",
    ]


async def test_the_last_one_that_is_over_is_shown(url: URL, bot: Bot, ask: Ask) -> None:
    """With its counts: what was refused is no reason to be told by the exit code."""
    async with kept(url, bot) as app:
        for chats in ((7, 8), (9, 404)):
            number = await begin(app, bot, *chats)
            await app.events.wait_for("broadcast.ended", timeout=PATIENCE, broadcast=number)
        code, lines = await ask()
    assert code == 0
    assert told(lines) == ["b2: ended, 2 of 2: 1 sent, 1 failed"]


async def test_the_verbs_of_a_broadcast(url: URL, bot: Bot, ask: Ask, server: BotApiServer) -> None:
    """Paused, resumed and cancelled, each once; dropped when it is over."""
    async with kept(url) as app:
        await begin(app, bot, 7, 8)
        assert await ask("pause", "b1") == (0, ["b1: paused; what is on its way is sent"])
        assert told((await ask())[1]) == ["b1: paused, 0 of 2"]
        code, lines = await ask("pause", "b1")
        assert (code, refusal(lines)) == (2, "b1 is paused already: nothing to pause")
        assert await ask("resume", "b1") == (0, ["b1: goes on"])
        code, lines = await ask("drop", "b1")
        assert (code, refusal(lines)) == (
            2,
            "b1 is not over: `db-manager delivery cancel b1` first",
        )
        assert await ask("cancel", "b1") == (0, ["b1: cancelled; what is on its way is sent"])
    async with kept(url, bot) as app:
        await app.events.wait_for("broadcast.ended", timeout=PATIENCE)
        code, lines = await ask("resume", "b1")
        assert (code, refusal(lines)) == (2, "b1 is over already: nothing to resume")
        assert await ask("drop", "b1") == (0, ["b1: dropped, with its chats"])
        assert await app.sql("SELECT count(*) FROM delivery__recipient") == [(0,)]
        code, lines = await ask("cancel", "b1")
        assert (code, refusal(lines)) == (2, "b1: there is no such broadcast")
    assert [call for call in server.calls if call.method == "sendMessage"] == []


WRONG = {
    ("retry", "b1"): "b1: a broadcast is not opened again; select the chats that it did not reach",
    ("pause", "m1"): "m1: pause is for broadcasts, as b3; retry or drop this",
    ("cancel", "dead"): "dead: cancel is for broadcasts, as b3; retry or drop this",
    ("pause", "b1@42"): "'b1@42' is no id: write m17 for a message",
}


@pytest.mark.parametrize("words", WRONG)
async def test_a_verb_that_is_not_for_it_is_refused(
    url: URL, bot: Bot, ask: Ask, words: tuple[str, str]
) -> None:
    """With what may be done instead; nothing has changed."""
    async with kept(url) as app:
        await begin(app, bot, 7)
        code, lines = await ask(*words)
        assert code == 2
        assert refusal(lines).startswith(WRONG[words])
        assert await app.sql("SELECT state FROM delivery__broadcast") == [(0,)]
