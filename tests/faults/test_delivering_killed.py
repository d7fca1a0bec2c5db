"""Messages survive the death of who was to send them: O1, O2 and O15."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain

import pytest
from sqlalchemy.engine import URL
from support.scene import WINDOW, Size, scene

UNKNOWN = 3
#: Seconds until Telegram answers, while who sends is killed: what it has not answered comes twice.
LATENCIES = {"at once": 0.0, "after 50 ms": 0.05}

Row = Callable[..., None]


@pytest.mark.parametrize("receives", ["webhook", "polling"])
async def test_without_a_fault_each_message_comes_once(
    database_url: URL, size: Size, row: Row, receives: str
) -> None:
    """O1: without a fault each message arrives exactly once, and in order."""
    async with scene(database_url, size, keys={"lease": 60.0}, receives=receives) as played:
        played.telegram.latency = 0.02
        await played.talk()
        verdict = await played.settled()
    assert verdict.wrong() == {}
    assert verdict.duplicates == 0
    row(
        "O1",
        load=f"{database_url.get_backend_name()}: {len(played.replicas.all)} replicas, {receives}",
        result=f"{played.summary}: 0 lost, 0 out of order, 0 twice",
    )


@pytest.mark.parametrize("receives", ["webhook", "polling"])
async def test_what_is_more_than_can_be_handled_waits(
    database_url: URL, size: Size, row: Row, receives: str, *, full: bool
) -> None:
    """O1: however fast people write, each message comes once, and in order."""
    rate, seconds = (600.0, 10.0) if full else (100.0, 1.0)
    crowd = replace(size, rate=rate, seconds=seconds, patience=10 * size.patience)
    async with scene(database_url, crowd, keys={"lease": 60.0}, receives=receives) as played:
        begun = time.perf_counter()
        await played.crowd.talk(seconds)
        waiting = await played.books.open_rows()
        verdict = await played.settled()
        took = time.perf_counter() - begun
    assert verdict.wrong() == {}
    assert verdict.duplicates == 0
    handled, sent = played.crowd.said.total() / took, len(played.telegram.arrived) / took
    row(
        "O1",
        load=f"{database_url.get_backend_name()}: {len(played.replicas.all)} replicas, {receives}, "
        f"{rate:g} updates a second for {seconds:g} s",
        result=f"{handled:.0f} updates and {sent:.0f} messages a second, {waiting} were open when "
        "people stopped: 0 lost, 0 out of order, 0 twice",
    )


@pytest.mark.parametrize(
    ("receives", "answers"), [("polling", "at once"), ("webhook", "after 50 ms")]
)
async def test_messages_of_the_dead_are_sent(
    database_url: URL, size: Size, row: Row, receives: str, answers: str, *, full: bool
) -> None:
    """O2: after each SIGKILL others, or the next process, send what was committed."""
    async with scene(database_url, size, receives=receives) as played:
        played.telegram.latency = LATENCIES[answers]
        await played.talk(played.kill_one)
        verdict = await played.settled()
    assert verdict.wrong() == {}
    held = Counter(chain.from_iterable(played.held))
    assert verdict.again - held == Counter()  # who was killed was sending it
    assert played.most_by_one_kill(verdict.again) <= WINDOW
    assert verdict.duplicates <= WINDOW * played.kills
    if full and answers == "at once":  # a few kills have no mean
        assert verdict.duplicates <= played.kills
    row(
        "O2",
        load=f"{database_url.get_backend_name()}: {played.kills} x SIGKILL, {receives}; Telegram "
        f"answers {answers}",
        result=f"{played.summary}: 0 lost, 0 out of order, {verdict.duplicates} twice",
    )


@pytest.mark.parametrize("lost", ["answer", "request"])
async def test_what_must_not_come_twice_does_not(
    postgres_database: URL, size: Size, row: Row, lost: str
) -> None:
    """O15: with once=True nothing arrives twice, and what may be missing is said to be unknown."""
    async with scene(postgres_database, size, options={"once": True}) as played:
        played.telegram.latency = 0.05
        played.telegram.trouble = {lost: 0.1}
        await played.talk(played.kill_one)
        verdict, states = await played.settled(), await played.books.states()
    assert verdict.wrong("messages_lost") == {}
    assert verdict.duplicates == 0
    unknown = states.get(UNKNOWN, 0)
    assert verdict.messages_lost <= unknown
    row(
        "O15",
        load=f"once=True, {played.kills} x SIGKILL, {played.telegram.troubles[lost]} lost {lost}s",
        result=f"0 twice of {sum(states.values())}, {unknown} unknown, of which "
        f"{unknown - verdict.messages_lost} had arrived",
    )
