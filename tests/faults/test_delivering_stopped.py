"""A process that is told to stop gives what it has not sent to others: O23."""

from collections.abc import Callable

from sqlalchemy.engine import URL
from support.scene import Size, scene

#: The lease is longer than anybody waits here.
MANY = Size(people=40, rate=100.0, seconds=2.0, lease=300.0, patience=40.0)


async def test_what_is_unsent_at_a_stop_is_sent_by_others(
    postgres_database: URL, row: Callable[..., None]
) -> None:
    """O23: after SIGTERM the others send the rest at once, and do not wait for a lease."""
    async with scene(postgres_database, MANY, count=1) as played:
        telegram = played.telegram
        telegram.latency = 0.3
        await played.talk()
        [stopped] = played.replicas.serving
        unsent = (await played.books.states()).get(0, 0)
        await played.replicas.begin()
        await stopped.stop()
        verdict = await played.settled()
    assert verdict.wrong() == {}
    assert verdict.duplicates == 0
    assert unsent > 0
    row(
        "O23",
        load=f"SIGTERM with {unsent} unsent messages",
        result=f"{len(telegram.arrived)} arrived, each once and in order, without a lease",
    )
