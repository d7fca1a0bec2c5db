"""psycopg asks the server to end a statement that was cancelled, until it does."""

import asyncio
import logging

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.accounting import accounted
from support.proxy import PostgresProxy

from db_manager.unit.uow import UnitOfWork


async def test_a_statement_that_the_server_has_not_yet_ends_too(
    postgres_database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    """A server ignores the wish to end what has not begun; psycopg alone would wait for 5 s."""
    passed = asyncio.Event()
    async with PostgresProxy(postgres_database.host or "", postgres_database.port or 0) as proxy:
        url = proxy.url(postgres_database).set(drivername="postgresql+psycopg")
        async with accounted(url, server=postgres_database) as database:
            late = proxy.on_client(b"pg_sleep", lambda _link: passed.wait(), kinds=b"PQ")

            async def work() -> None:
                async with UnitOfWork(database) as uow:
                    await uow.session.execute(text("SELECT pg_sleep(60)"))

            working = asyncio.create_task(work())
            await late.fired.wait()
            others = len(proxy.links)
            working.cancel()
            while not proxy.cancel_requests or len(proxy.links) > others:  # noqa: ASYNC110 -- no event
                await asyncio.sleep(0)
            passed.set()  # after the wish
            with (
                caplog.at_level(logging.WARNING, "psycopg"),
                pytest.raises(asyncio.CancelledError),
            ):
                await working
            assert caplog.messages == []
