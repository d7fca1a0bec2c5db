"""Replicas behind a PgBouncer that gives each transaction another connection: O24."""

import asyncio
from collections.abc import Callable

import pytest
from aiogram.methods import SendMessage
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.kept import PATIENCE, client, kept
from support.pgbouncer import PgBouncer, pgbouncer_program
from support.scene import WINDOW, Size, scene
from support.searching import Searching

from db_manager.config import DatabaseConfig
from db_manager.delivery.table.at_once import AtOnce
from db_manager.delivery.table.claims import Claimed, Claims
from db_manager.engine.create import create_beside, create_engine
from lifecycle.testing import BotApiServer

Row = Callable[..., None]


async def test_messages_of_the_dead_are_sent_through_pgbouncer(
    postgres_database: URL, pgbouncer: PgBouncer, size: Size, row: Row
) -> None:
    """O24: nothing of it needs a session: O2 holds in transaction mode."""
    async with scene(
        postgres_database,
        size,
        through=pgbouncer.url(postgres_database),
        database={"pgbouncer": True},
    ) as played:
        played.telegram.latency = 0.05
        await played.talk(played.kill_one)
        verdict = await played.settled()
    assert verdict.wrong() == {}
    assert verdict.duplicates <= played.kills * WINDOW
    row(
        "O24",
        load=f"PgBouncer, transaction mode, 2 connections, {played.kills} x SIGKILL",
        result=f"{played.summary}: 0 lost, 0 out of order, {verdict.duplicates} twice",
    )


async def test_a_unit_with_the_only_connection_ends_while_a_search_waits_for_one(
    postgres_database: URL, postgres_admin: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a lost answer the relay asks what is its own, and keeps no unit out meanwhile."""
    asked = asyncio.Event()
    mine = Claims.mine

    async def say_and_ask(self: Claims, me: int) -> list[Claimed]:
        asked.set()
        return await mine(self, me)

    monkeypatch.setattr(Claims, "mine", say_and_ask)
    async with BotApiServer() as server, client(server) as bot:
        await server.user(7, "Ada").say("/start")
        with PgBouncer(pgbouncer_program(), postgres_admin, pool_size=1) as bouncer:
            url = bouncer.url(postgres_database)
            async with kept(url, bot, poll=60, lease=600, database={"pgbouncer": True}) as app:
                searching = Searching(app)
                await searching.begins()
                async with asyncio.timeout(PATIENCE):
                    async with app.units() as uow:
                        await uow.connection.execute(text("SELECT 1"))
                        sending = uow.send(SendMessage(chat_id=7, text="a"))
                        search = asyncio.create_task(searching.search())
                        await asked.wait()
                    await search
                await sending


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_statements_of_the_relay_find_what_they_have_prepared(
    postgres_database: URL, pgbouncer: PgBouncer, driver: str
) -> None:
    """A lone statement is prepared and executed on one connection, however many there are."""
    config = DatabaseConfig(
        url=pgbouncer.url(postgres_database)
        .set(drivername=f"postgresql+{driver}")
        .render_as_string(hide_password=False),
        pgbouncer=True,
    )
    engine = create_engine(config)
    beside = create_beside(engine, 10)
    lone = AtOnce(beside)

    async def ask(number: int) -> None:
        for _ in range(20):
            found = await lone.rows(text("SELECT CAST(:number AS integer)"), {"number": number})
            assert [tuple(row) for row in found] == [(number,)]

    await asyncio.gather(*(ask(number) for number in range(10)))
    await beside.dispose()
    await engine.dispose()
