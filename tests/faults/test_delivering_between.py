"""A process dies at each step of a message: O9."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy.engine import URL
from support.scene import Scene, Size, scene

#: One person has one message on its way at a time.
ONE = Size(people=1, rate=10.0, seconds=1.0, lease=2.0, patience=60.0)

Row = Callable[..., None]


async def die_after(played: Scene, topic: str) -> None:
    """Let a replica die at its first event of a topic."""
    doomed = await played.replicas.begin(dies_at=topic)
    await doomed.has_ended()


async def die_on_the_way(played: Scene) -> None:
    """Let a replica die while its first message is on the way to Telegram, where it is lost."""
    doomed = await played.replicas.begin()
    played.telegram.at_request = doomed.kill
    await doomed.has_ended()


async def die_unanswered(played: Scene) -> None:
    """Let a replica die when its first message has arrived, before it is told."""
    doomed = await played.replicas.begin()
    played.telegram.at_arrival = doomed.kill
    await doomed.has_ended()


#: By the two steps: how a replica dies between them, and whether a message may come again then.
POINTS: dict[str, tuple[Callable[[Scene], Awaitable[None]], bool]] = {
    "commit and send": (lambda played: die_after(played, "uow.commit"), False),
    "send and arrival": (die_on_the_way, False),
    "arrival and mark": (die_unanswered, True),
    "answer and mark": (lambda played: die_after(played, "message.sent"), True),
}


@pytest.mark.parametrize("between", POINTS)
async def test_a_death_between_two_steps_loses_nothing(
    database_url: URL, row: Row, between: str, *, full: bool
) -> None:
    """O9: only who dies after a message has arrived and before its mark lets it come again."""
    times = 20 if full else 2
    die, again = POINTS[between]
    async with scene(database_url, ONE, count=0) as played:
        talk = asyncio.create_task(played.talk())
        for _ in range(times):
            await die(played)
        await played.replicas.begin()
        await talk
        verdict = await played.settled()
    assert verdict.wrong() == {}
    assert verdict.duplicates <= (times if again else 0)
    row(
        "O9",
        load=f"{database_url.get_backend_name()}: SIGKILL between {between}, {times} ×",
        result=f"{len(played.telegram.arrived)} messages, 0 lost, {verdict.duplicates} twice",
    )
