"""The recipe of a bot behind PgBouncer, behind a real one where it is installed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from support.accounting import connected
from support.pgbouncer import PgBouncer, pgbouncer_program

from db_manager import DatabasePlugin, DbManagerError
from examples.recipes import pgbouncer
from lifecycle import Application
from lifecycle.testing import BotApiServer, BotApiUser, LocalTelegram

MANY = 20

Poll = Callable[..., AbstractAsyncContextManager[BotApiServer]]


@pytest.fixture
async def impatient(postgres_database: URL) -> AsyncIterator[Any]:
    """A connection to the server itself, where nobody waits for a lock any more."""
    async with connected(postgres_database) as admin:
        await admin.execute(f'ALTER DATABASE "{postgres_database.database}" SET lock_timeout = 1')
        yield admin


@pytest.fixture
def query_wait_timeout() -> int:
    """Seconds for which PgBouncer lets a client wait for a connection to the server."""
    return 100


@pytest.fixture(params=["asyncpg", "psycopg"])
def pooled(
    request: pytest.FixtureRequest, postgres_database: URL, query_wait_timeout: int
) -> Iterator[URL]:
    """URL of a database behind PgBouncer, which has two connections to it."""
    program = pgbouncer_program()
    wait = str(query_wait_timeout)
    with PgBouncer(program, postgres_database, query_wait_timeout=wait) as bouncer:
        yield bouncer.url(postgres_database).set(drivername=f"postgresql+{request.param}")


async def test_many_units_share_few_connections(
    poll: Poll, pooled: URL, postgres_database: URL
) -> None:
    """Twenty people at once are answered over two connections, and each line is there once."""
    async with poll(pgbouncer, pooled) as telegram:
        people = [telegram.user(number, "Somebody") for number in range(1, MANY + 1)]
        await asyncio.gather(*(each.say(f"I am {each.id}") for each in people))
        answers = [(await each.reply(timeout=60)).text.partition(": ") for each in people]
    assert [text for _, _, text in answers] == [f"I am {each.id}" for each in people]
    async with connected(postgres_database) as admin:
        lines = await admin.fetch("SELECT id, chat_id, text FROM log__line")
    assert {(f"Line {id_}", text) for id_, _, text in lines} == {
        (line, text) for line, _, text in answers
    }


@pytest.fixture
async def ada(pooled: URL, telegram: LocalTelegram, monkeypatch: pytest.MonkeyPatch) -> BotApiUser:
    """Somebody who writes to the bot, whose handler's errors reach the test."""
    monkeypatch.setenv("DATABASE__URL", pooled.render_as_string(hide_password=False))
    app = Application([DatabasePlugin], config=pgbouncer.CONFIG)
    await telegram.run(app, pgbouncer.make_dispatcher())
    return telegram.user(7, "Ada")


async def test_the_timeouts_are_those_of_the_server(impatient: Any, ada: BotApiUser) -> None:
    """PgBouncer passes none on; what is set at the server ends a statement that waits too long."""
    async with impatient.transaction():
        await impatient.execute("LOCK TABLE log__line")
        with pytest.raises(DBAPIError, match="lock timeout"):
            await ada.say("first")
    assert not ada.unread
    await ada.say("second")
    assert (await ada.reply()).text.endswith(": second")
    assert await impatient.fetchval("SELECT array_agg(text) FROM log__line") == ["second"]


@pytest.mark.parametrize("query_wait_timeout", [1])
async def test_a_unit_that_gets_no_connection_fails(pooled: URL, ada: BotApiUser) -> None:
    """While others hold all connections to the server PgBouncer refuses it, and then it works."""
    async with AsyncExitStack() as stack:
        for _ in range(2):
            other = await stack.enter_async_context(connected(pooled))
            await other.execute("BEGIN")
        with pytest.raises((DBAPIError, DbManagerError), match="query_wait_timeout"):
            await ada.say("first")
        assert not ada.unread
    await ada.say("second")
    assert (await ada.reply()).text.endswith(": second")
