"""Updates that come again, and commits whose answer is lost, take effect once: O7 and O8."""

import asyncio
import random
from collections.abc import Callable

from sqlalchemy.engine import URL
from support.proxy import PostgresProxy, Rule
from support.scene import WINDOW, Size, scene

Row = Callable[..., None]


async def test_an_update_that_comes_again_has_no_effect(
    postgres_database: URL, size: Size, row: Row
) -> None:
    """O7: Telegram may deliver an update again, elsewhere, and long after it is done."""
    async with scene(postgres_database, size, repeats=0.5) as played:
        await played.talk(played.kill_one)
        verdict = await played.settled()
        repeated = played.replicas.count("update.repeated")
    assert verdict.wrong() == {}
    assert verdict.duplicates <= WINDOW * played.kills
    assert repeated
    row(
        "O7",
        load=f"half of the updates come again, {played.kills} x SIGKILL",
        result=f"{played.summary}: 0 lost, 0 out of order, {repeated} repeats recognised",
    )


async def test_a_commit_with_a_lost_answer_has_its_effect_once(
    postgres_database: URL, size: Size, row: Row, *, full: bool
) -> None:
    """O8: whether COMMIT or its answer is lost, the update takes effect once by itself."""
    host, port = postgres_database.host or "", postgres_database.port or 0
    lost: list[Rule] = []
    async with PostgresProxy(host, port) as proxy:

        async def lose() -> None:
            await asyncio.sleep(random.uniform(0.05, 0.3))
            if len(lost) % 2:
                rule = proxy.on_client(b"^COMMIT", proxy.cut)
            else:
                rule = proxy.on_server(b"^COMMIT", proxy.cut)
            lost.append(rule)
            await asyncio.wait({asyncio.create_task(rule.fired.wait())}, timeout=1)

        async with scene(
            postgres_database, size, count=1, through=proxy.url(postgres_database)
        ) as played:
            while sum(each.fired.is_set() for each in lost) < (100 if full else 4):
                await played.talk(lose)
            proxy.forget()
            verdict = await played.settled()
    assert verdict.wrong() == {}
    fired = sum(each.fired.is_set() for each in lost)
    assert verdict.duplicates <= WINDOW * fired
    row(
        "O8",
        load=f"{fired} x COMMIT or its answer lost",
        result=f"{played.summary}: 0 lost, 0 out of order, {verdict.duplicates} twice",
    )
