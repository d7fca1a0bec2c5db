"""A process dies at each step of an update and of its messages: O9."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from sqlalchemy.engine import URL
from support.replicas import Replica
from support.scene import Scene, Size, scene

#: One person has one message on its way at a time.
ONE = Size(people=1, rate=10.0, seconds=0.3, lease=0.5, patience=60.0)

Row = Callable[..., None]


async def doomed(dies: str, played: Scene) -> Replica:
    """Begin a replica that kills itself at a step."""
    return await played.replicas.begin(dies=dies)


async def doomed_on_the_way(played: Scene) -> Replica:
    """Begin a replica that dies while a message is on the way to Telegram, where it is lost."""
    found = await played.replicas.begin()
    played.telegram.at_request = found.kill
    return found


async def doomed_unanswered(played: Scene) -> Replica:
    """Begin a replica that dies when a message has arrived, before it is told."""
    found = await played.replicas.begin()
    played.telegram.at_arrival = found.kill
    return found


#: By the two steps: how a replica dies between them, and whether a message may come again then.
POINTS: dict[str, tuple[Callable[[Scene], Awaitable[Replica]], bool]] = {
    "arrival and store": (partial(doomed, "before store"), False),
    "store and acknowledgement": (partial(doomed, "after store"), False),
    "claim and handler": (partial(doomed, "before handling"), False),
    "done and commit": (partial(doomed, "after done"), False),
    "commit and send": (partial(doomed, "before handing over"), False),
    "send and arrival": (doomed_on_the_way, False),
    "arrival and answer": (doomed_unanswered, True),
    "answer and mark": (partial(doomed, "before mark"), True),
    "mark and what follows": (partial(doomed, "after mark"), False),
}


@pytest.mark.parametrize("between", POINTS)
async def test_a_death_between_two_steps_loses_nothing(
    database_url: URL, row: Row, between: str, *, full: bool
) -> None:
    """O9: only who dies after a message has arrived and before its mark lets it come again.

    On PostgreSQL updates are polled, on SQLite a webhook gets them.
    """
    times = 20 if full else 1
    begin, again = POINTS[between]
    database = database_url.get_backend_name()
    receives = "polling" if database == "postgresql" else "webhook"
    async with scene(database_url, ONE, count=0, receives=receives) as played:
        for _ in range(times):
            dies = await begin(played)
            talk = asyncio.create_task(played.talk())
            await dies.has_ended()
            heir = await played.replicas.begin()
            await talk
            verdict = await played.settled()
            await heir.stop()
        parked = await played.books.parked()
    assert verdict.wrong() == {}
    assert parked == set()
    assert verdict.duplicates <= (times if again else 0)
    row(
        "O9",
        load=f"{database}: SIGKILL between {between}, {receives}, {times} ×",
        result=f"{played.summary}: 0 lost, 0 out of order, {verdict.duplicates} twice",
    )
