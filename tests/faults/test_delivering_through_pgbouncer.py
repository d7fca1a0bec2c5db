"""Replicas behind a PgBouncer that gives each transaction another connection: O24."""

from collections.abc import Callable

from sqlalchemy.engine import URL
from support.pgbouncer import PgBouncer
from support.scene import WINDOW, Size, scene

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
