"""aiogram by itself, at the checks of durable delivery: O2, the wrong way."""

from sqlalchemy.engine import URL
from support.scene import scene


async def test_the_checks_pass_what_is_right(postgres_database: URL) -> None:
    """Without a fault nothing is lost, twice or out of order with aiogram by itself, either."""
    async with scene(postgres_database, way="plain") as played:
        await played.talk(seconds=2)
        verdict = await played.verdict()
    assert sum(played.crowd.said.values()) > 10
    assert verdict.wrong() == {}
    assert verdict.duplicates == 0


async def test_messages_after_the_unit_are_lost(postgres_database: URL) -> None:
    """O2, the wrong way: messages that are sent after the unit are lost with their process."""
    async with scene(postgres_database, way="plain") as played:
        played.telegram.latency = 0.1
        while "messages_lost" not in (await played.verdict()).wrong():
            await played.talk(played.kill_one, seconds=1)


async def test_messages_inside_of_the_unit_are_phantoms(postgres_database: URL) -> None:
    """O16, the wrong way: messages that are sent in a unit speak of what is rolled back."""
    async with scene(postgres_database, way="early") as played:
        await played.talk(seconds=1)
        assert "phantoms" in (await played.verdict()).wrong()


async def test_updates_that_are_acknowledged_before_they_are_handled_are_lost(
    postgres_database: URL,
) -> None:
    """O2, the wrong way: aiogram's polling tells Telegram that it has what it has not handled."""
    async with scene(postgres_database, way="plain", count=1, receives="polling", seconds=0.5) as (
        played
    ):
        while "effects_lost" not in (await played.verdict()).wrong():
            await played.talk(played.kill_one, seconds=1)


async def test_updates_of_a_chat_overtake_each_other(postgres_database: URL) -> None:
    """O1, the wrong way: aiogram's polling handles all updates of a chat at the same time."""
    async with scene(
        postgres_database, way="plain", count=1, receives="polling", seconds=0.5
    ) as played:
        await played.talk(seconds=1)
        await played.replicas.all[0].stop()
        assert "effects_out_of_order" in (await played.verdict()).wrong()
