"""Each guard of durable delivery is needed: without it a check fails. O28, and O12 with it."""

import asyncio
import signal
from collections.abc import Callable

import pytest
from sqlalchemy.engine import URL
from support.proxy import PostgresProxy
from support.scene import SHORT, WINDOW, Scene, Size, scene

Row = Callable[..., None]
#: More chats than messages that may be unmarked.
MANY = Size(people=40, rate=200.0, seconds=1.0, lease=1.0, patience=40.0)


async def test_claims_of_rows_are_out_of_order(postgres_database: URL, row: Row) -> None:
    """O28: when each message is claimed for itself, those of a chat overtake each other."""
    async with scene(postgres_database, without="row_claims") as played:
        played.telegram.latency = 0.1
        while "messages_out_of_order" not in (await played.verdict()).wrong():
            await played.talk(seconds=1)
    row(
        "O28",
        load="each message is claimed for itself",
        result="messages of a chat overtake each other",
    )


async def test_a_mark_before_the_message_loses_it(postgres_database: URL, row: Row) -> None:
    """O28: what is marked before it is sent is lost with its process."""
    async with scene(postgres_database, without="mark_first") as played:
        played.telegram.latency = 0.1
        while "messages_lost" not in (await played.verdict()).wrong():
            await played.talk(played.kill_one)
            await played.settled()
    row("O28", load="marked before it is sent", result="messages are lost")


async def test_an_acknowledgement_before_the_row_loses_the_update(
    postgres_database: URL, row: Row
) -> None:
    """O28: what Telegram is told of before it is stored is lost with its process."""
    async with scene(postgres_database, without="acknowledge_first") as played:
        while "effects_lost" not in (await played.verdict()).wrong():
            await played.talk(played.kill_one)
            await played.settled()
    row("O28", load="acknowledged before it is stored", result="updates are lost")


async def test_without_a_fence_the_frozen_go_on(postgres_database: URL, row: Row) -> None:
    """O28: who was frozen in a handler has its effect although others had it meanwhile."""
    async with scene(postgres_database, without="no_fence", seconds=1.0) as played:
        while "effects_twice" not in (await played.verdict()).wrong():
            await played.talk(lambda: played.freeze_one(SHORT.lease + 2))
            await played.settled()
    row("O28", load="the frozen ask nobody when they wake", result="effects come twice")


async def expelled_by_an_outage(url: URL, without: str = "") -> int:
    """Return how many replicas are expelled after an outage that is longer than a lease.

    One of them is heard later than the others, and still before they have lived for a lease.
    """
    size = Size(people=2, rate=10.0, seconds=1.0, lease=4.0, patience=40.0)
    proxy = PostgresProxy(url.host or "", url.port or 0)
    async with proxy, scene(url, size, through=proxy.url(url), without=without) as played:
        proxy.refuse()
        proxy.cut()
        await asyncio.sleep(1.25 * size.lease)
        late = played.replicas.serving[0]
        late.signal(signal.SIGSTOP)
        await proxy.resume()
        await asyncio.sleep(0.6 * size.lease)
        late.signal(signal.SIGCONT)
        await played.talk()
        await played.settled()
        return played.replicas.count("member.expelled")


async def test_nobody_is_expelled_by_an_outage(postgres_database: URL, row: Row) -> None:
    """O12: after an outage all look dead, and nobody is judged before all could be heard."""
    assert await expelled_by_an_outage(postgres_database) == 0
    row("O12", load="an outage longer than a lease, all back at once", result="0 expelled")


async def test_judged_at_once_all_are_dead_after_an_outage(
    postgres_database: URL, row: Row
) -> None:
    """O28: who judges at once expels after an outage those who live."""
    assert await expelled_by_an_outage(postgres_database, "judge_at_once") > 0
    row("O28", load="judged at once after an outage", result="those who live are expelled")


async def unanswered(played: Scene, wanted: int) -> int:
    """Let a process die with as many messages unmarked as it may have; return how many came twice.

    Args:
        played: The scene, with one replica.
        wanted: For how many to wait.
    """
    played.telegram.answers.clear()
    await played.talk()
    async with asyncio.timeout(40):
        while len(played.telegram.arrived) < wanted:  # noqa: ASYNC110 -- they tell nobody
            await asyncio.sleep(0.02)
    await played.kill_one()
    played.telegram.answers.set()
    return (await played.settled()).duplicates


@pytest.mark.parametrize("window", [WINDOW, 1000])
async def test_a_window_bounds_what_a_death_repeats(
    postgres_database: URL, row: Row, window: int
) -> None:
    """O28: with a window as large as the load, a death repeats more than the usual one allows."""
    async with scene(postgres_database, MANY, count=1, keys={"window": window}) as played:
        duplicates = await unanswered(played, min(window, WINDOW + 5))
    assert (duplicates <= WINDOW) is (window == WINDOW)
    assert duplicates >= min(window, WINDOW)
    if window != WINDOW:  # the usual one is no mutation
        row(
            "O28",
            load=f"window {window}, {WINDOW + 5} messages unanswered at a death",
            result=f"{duplicates} twice, where the usual window allows {WINDOW}",
        )
