"""Messages survive the death of who was to send them: O1, O2 and O15."""

from collections.abc import Callable

import pytest
from sqlalchemy.engine import URL
from support.scene import FULL, WINDOW, Size, scene

UNKNOWN = 3
#: Seconds until Telegram answers, while who sends is killed.
LATENCY = 0.05

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
async def test_messages_of_the_dead_are_sent(
    database_url: URL, size: Size, row: Row, receives: str
) -> None:
    """O2: after each SIGKILL others, or the next process, send what was committed."""
    async with scene(database_url, size, receives=receives) as played:
        played.telegram.latency = LATENCY
        await played.talk(played.kill_one)
        verdict = await played.settled()
    assert verdict.wrong() == {}
    # What Telegram has and has not answered comes twice, whoever sends. Besides that one message a
    # kill; two where one process, that of a SQLite file, sends what three do elsewhere.
    mean = played.kills * (1 if played.count > 1 else 2) + played.unanswered
    assert verdict.duplicates <= (mean if size is FULL else played.kills * WINDOW)
    row(
        "O2",
        load=f"{database_url.get_backend_name()}: {played.kills} x SIGKILL, {receives}",
        result=f"{played.summary}: 0 lost, 0 out of order, {verdict.duplicates} twice, "
        f"of which Telegram had not answered {played.unanswered:.0f}",
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
