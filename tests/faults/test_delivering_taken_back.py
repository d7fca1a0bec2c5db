"""What is taken back is not sent: O16."""

from collections.abc import Callable

from sqlalchemy.engine import URL
from support.scene import Size, scene

FEW = Size(people=2, rate=60.0, seconds=1.0, lease=60.0, patience=40.0)


async def test_nothing_is_sent_of_what_is_taken_back(
    database_url: URL, row: Callable[..., None]
) -> None:
    """O16: rolled back by an error, a cancellation, a savepoint or SkipHandler, nothing is sent."""
    async with scene(database_url, FEW, count=1) as played:
        while played.crowd.said.total() < 20:  # each kind of them is among the first seven
            await played.talk()
        verdict, states = await played.settled(), await played.books.states()
    assert verdict.wrong() == {}
    assert sum(states.values()) == len(played.telegram.arrived)
    row(
        "O16",
        load=f"{database_url.get_backend_name()}: units and savepoints left by an error, "
        "a cancellation and SkipHandler",
        result=f"{len(played.telegram.arrived)} messages of units that were committed, no other",
    )
