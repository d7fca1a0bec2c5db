"""Kafka: what stands where in a topic, and brokers that fall silent."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError
from support.kafka_brokers import KafkaBrokers
from support.ports import free_port

from db_manager.delivery import broker
from db_manager.delivery.broker import brokers
from db_manager.delivery.broker.outgoing import written
from db_manager.delivery.broker.publisher import Publisher
from db_manager.delivery.table.claims import Claimed

TOPIC = "notes.added"
#: Seconds until a silent broker is given up.
SOON = 1.0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (brokers, broker.publisher):
        monkeypatch.setattr(module, "ANSWER", SOON)


@pytest.fixture
def kafka() -> Iterator[KafkaBrokers]:
    """Yield a Kafka of this test's own."""
    with KafkaBrokers() as found:
        yield found


@pytest.fixture
async def publisher(kafka: KafkaBrokers) -> AsyncIterator[Publisher]:
    """Yield what brings events to it."""
    async with aclosing(Publisher(kafka.url)) as found:
        yield found


async def publish(publisher: Publisher, number: int, key: str = "7") -> None:
    """Bring an event."""
    await publisher.publish(Claimed.as_written(written(TOPIC, number, key), number, 1))


async def records(kafka: KafkaBrokers) -> list[ConsumerRecord[bytes, bytes]]:
    """Return the records of the topic."""
    async with AIOKafkaConsumer(
        TOPIC, bootstrap_servers=kafka.url.partition("://")[2], auto_offset_reset="earliest"
    ) as consumer:
        numbers = consumer.partitions_for_topic(TOPIC)
        ends = await consumer.end_offsets([TopicPartition(TOPIC, each) for each in numbers])
        return [await consumer.getone() for _ in range(sum(ends.values()))]


async def test_events_of_one_key_are_in_one_partition(
    kafka: KafkaBrokers, publisher: Publisher
) -> None:
    """In their order; those of other keys may be in others."""
    for number in range(12):
        await publish(publisher, number, key=str(number % 3))
    found = await records(kafka)
    assert len(found) == 12
    partitions = {each.key: each.partition for each in found}
    assert partitions.keys() == {b"0", b"1", b"2"}
    for key, partition in partitions.items():
        of_key = [each for each in found if each.key == key]
        assert {each.partition for each in of_key} == {partition}
        numbers = [json.loads(each.value or b"") for each in of_key]
        assert numbers == [each for each in range(12) if str(each % 3) == key.decode()]


async def test_what_was_given_up_is_not_sent_later(
    kafka: KafkaBrokers, publisher: Publisher
) -> None:
    """Of an event that failed three times Kafka hears what was on its way and the last attempts."""
    await publish(publisher, 0)
    kafka.fall_silent()
    for _ in range(3):
        with pytest.raises((KafkaError, TimeoutError)):
            await publish(publisher, 1)
    kafka.speak()
    await publish(publisher, 1)
    await publish(publisher, 2)
    numbers = [json.loads(each.value or b"") for each in await records(kafka)]
    assert numbers == sorted(numbers)
    assert set(numbers) == {0, 1, 2}
    assert len(numbers) <= 5


async def test_a_silent_kafka_holds_up_no_end(kafka: KafkaBrokers, publisher: Publisher) -> None:
    """What it has not answered is in the table still, and nobody waits for it at a stop."""
    await publish(publisher, 0)
    kafka.fall_silent()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SOON / 2):
            await publish(publisher, 1)
    async with asyncio.timeout(20 * SOON):
        await publisher.aclose()


async def test_a_kafka_that_is_not_there_leaves_nothing() -> None:
    """An attempt fails, and what it has opened is closed."""
    async with aclosing(Publisher(f"kafka://127.0.0.1:{free_port()}")) as publisher:
        with pytest.raises(KafkaConnectionError, match="Unable to bootstrap"):
            await publish(publisher, 0)
