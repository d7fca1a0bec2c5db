"""Outboxes of an afternoon at the checks of durable delivery: O28, and that a right one passes."""

from sqlalchemy.engine import URL
from support.naive import TABLE
from support.scene import REPEATED, WINDOW, Scene, scene
from support.verdict import Verdict


async def fell(played: Scene) -> Verdict:
    """Let replicas die while people write; return what became of it after all is sent."""
    played.telegram.latency = 0.05
    await played.talk(played.kill_one)
    return await played.settled()


async def test_an_outbox_of_heads_passes(postgres_database: URL) -> None:
    """O2: with the first message of each chat claimed, kills lose nothing; the bounds hold."""
    async with scene(postgres_database, way="heads", tables=(TABLE,)) as played:
        verdict = await fell(played)
        assert verdict.wrong(*REPEATED) == {}
        assert verdict.duplicates <= WINDOW * played.kills


async def test_claims_of_rows_are_out_of_order(postgres_database: URL) -> None:
    """O28: when any message is claimed, those of a chat overtake each other without a kill."""
    async with scene(postgres_database, way="rows", tables=(TABLE,)) as played:
        played.telegram.latency = 0.05
        while "messages_out_of_order" not in (await played.verdict()).wrong():
            await played.talk(seconds=1)


async def test_a_mark_before_the_message_loses_it(postgres_database: URL) -> None:
    """O28: what is marked as sent before it is sent is lost with the process."""
    async with scene(postgres_database, way="mark-first", tables=(TABLE,)) as played:
        while "messages_lost" not in (await fell(played)).wrong():
            pass


async def test_a_message_that_is_tried_once_is_lost(postgres_database: URL) -> None:
    """O3, the wrong way: a relay that takes an error for the end loses what Telegram refused."""
    async with scene(postgres_database, way="once-tried", tables=(TABLE,)) as played:
        played.telegram.trouble = {"500": 0.2}
        await played.talk(seconds=1)
        assert "messages_lost" in (await played.settled()).wrong()
