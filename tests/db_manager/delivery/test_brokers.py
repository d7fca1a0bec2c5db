"""What every broker does with an event, on real ones: a contract for all of them."""

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, NamedTuple

import aio_pika
import nats
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from redis.asyncio import Redis as RedisClient
from sqlalchemy.engine import make_url
from support.kafka_brokers import KafkaBrokers
from support.line import Line
from support.nats_server import nats_server

from db_manager.delivery.broker.brokers import (
    BROKERS,
    ID,
    Broker,
    Kafka,
    Memory,
    Nats,
    Rabbit,
    Redis,
)
from db_manager.delivery.broker.outgoing import OutgoingEvent, written
from db_manager.delivery.broker.publisher import Publisher
from db_manager.delivery.table.claims import Claimed

#: Where the environment says that those are which are not begun here.
REAL = {"redis": "DB_MANAGER_TEST_REDIS_URL", "rabbit": "DB_MANAGER_TEST_RABBIT_URL"}


class Heard(NamedTuple):
    """What somebody has got."""

    id: str
    body: Any


#: Returns what has come to a subject so far.
Listener = Callable[[], Awaitable[list[Heard]]]


@asynccontextmanager
async def hearing_nats(url: str, subject: str) -> AsyncIterator[Listener]:
    """Have a stream for a subject."""
    client = await nats.connect(url)
    stream, name = client.jetstream(), subject.replace(".", "_")
    await stream.add_stream(name=name, subjects=[subject])

    async def heard() -> list[Heard]:
        found = []
        for number in range(1, (await stream.stream_info(name)).state.messages + 1):
            message = await stream.get_msg(name, number)
            found.append(Heard(str((message.headers or {})[ID]), json.loads(message.data or b"")))
        return found

    yield heard
    await stream.delete_stream(name)
    await client.close()


@asynccontextmanager
async def hearing_redis(url: str, subject: str) -> AsyncIterator[Listener]:
    """Read the stream of a subject."""
    client = RedisClient.from_url(url)

    async def heard() -> list[Heard]:
        found = []
        for _, fields in await client.xrange(subject):
            said = fields[b"__data__"]  # FastStream's form: headers, then the body
            begin = said.index(ID.encode()) + len(ID) + 2
            found.append(Heard(said[begin : begin + 32].decode(), json.loads(said[begin + 32 :])))
        return found

    yield heard
    await client.delete(subject)
    await client.aclose()


@asynccontextmanager
async def hearing_rabbit(url: str, subject: str) -> AsyncIterator[Listener]:
    """Bind a queue to a subject."""
    connection = await aio_pika.connect(url)
    channel = await connection.channel()
    queue = await channel.declare_queue(subject, durable=True)
    await queue.bind("amq.topic", subject)
    found: list[Heard] = []

    async def heard() -> list[Heard]:
        while (message := await queue.get(fail=False)) is not None:
            assert message.message_id == message.headers[ID]
            found.append(Heard(str(message.message_id), json.loads(message.body)))
            await message.ack()
        return found

    yield heard
    await queue.delete()
    await connection.close()


@asynccontextmanager
async def hearing_kafka(url: str, subject: str) -> AsyncIterator[Listener]:
    """Read all partitions of a topic."""
    servers = url.partition("://")[2]
    async with AIOKafkaConsumer(
        subject, bootstrap_servers=servers, auto_offset_reset="earliest"
    ) as consumer:
        found: list[Heard] = []

        async def heard() -> list[Heard]:
            numbers = consumer.partitions_for_topic(subject)
            ends = await consumer.end_offsets([TopicPartition(subject, each) for each in numbers])
            while len(found) < sum(ends.values()):
                for messages in (await consumer.getmany(timeout_ms=1000)).values():
                    for each in messages:
                        said = dict(each.headers)[ID].decode()
                        found.append(Heard(said, json.loads(each.value or b"")))
            return list(found)

        yield heard


@asynccontextmanager
async def hearing_memory(url: str, subject: str) -> AsyncIterator[Listener]:
    """Look at the list."""

    async def heard() -> list[Heard]:
        return [Heard(each.id, each.body) for each in Memory.taken[url] if each.subject == subject]

    yield heard


HEARING = {
    "memory": hearing_memory,
    "nats": hearing_nats,
    "redis": hearing_redis,
    "rabbit": hearing_rabbit,
    "kafka": hearing_kafka,
}
KINDS: dict[str, type[Broker]] = {
    "memory": Memory,
    "nats": Nats,
    "redis": Redis,
    "rabbit": Rabbit,
    "kafka": Kafka,
}


@pytest.fixture(scope="module")
async def nats_url() -> AsyncIterator[str]:
    """Where a NATS of our own is."""
    async with nats_server() as server:
        yield server.url


@pytest.fixture(scope="module")
def kafka_url() -> Iterator[str]:
    """Where a Kafka of our own is."""
    with KafkaBrokers() as brokers:
        yield brokers.url


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name of a broker."""
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest) -> str:
    """Where it is."""
    if kind == "memory":
        return "memory://contract"
    if kind in {"nats", "kafka"}:
        return str(request.getfixturevalue(f"{kind}_url"))
    if REAL[kind] not in os.environ:  # pip has no package of them
        pytest.skip(f"not run: {REAL[kind]} is not set")
    return os.environ[REAL[kind]]


@pytest.fixture
def subject() -> str:
    """A subject of this test's own."""
    return f"trial.{secrets.token_hex(8)}"


@asynccontextmanager
async def connected(kind: str, url: str) -> AsyncIterator[Broker]:
    """Yield a client of a broker."""
    broker = KINDS[kind](url)
    await broker.connect()
    try:
        yield broker
    finally:
        await broker.close()


def event(subject: str, body: Any = None) -> OutgoingEvent:
    """Return an event."""
    return OutgoingEvent(secrets.token_hex(16), subject, "7", body)


@pytest.mark.parametrize("body", [{"id": 7, "text": "молоко"}, [1, None], "text", 0, None])
async def test_an_event_is_there_once_it_was_published(
    kind: str, url: str, subject: str, body: Any
) -> None:
    """With its id in a header, and its body as JSON; texts and nothing are as FastStream writes."""
    async with connected(kind, url) as broker, HEARING[kind](url, subject) as heard:
        sent = event(subject, {"said": body})
        await broker.publish(sent)
        assert await heard() == [Heard(sent.id, {"said": body})]


async def test_a_copy_has_the_same_id(kind: str, url: str, subject: str) -> None:
    """NATS keeps the first one alone; of the others it is for the reader to know."""
    async with connected(kind, url) as broker, HEARING[kind](url, subject) as heard:
        sent = event(subject, {"n": 1})
        for _ in range(2):
            await broker.publish(sent)
        assert await heard() == [Heard(sent.id, sent.body)] * (1 if kind == "nats" else 2)


async def test_an_event_for_nobody_is_not_lost(kind: str, url: str, subject: str) -> None:
    """Without a stream, or a queue, the broker does not have it, and says so."""
    async with connected(kind, url) as broker:
        sent = event(subject, {"n": 1})
        if kind in {"nats", "rabbit"}:  # elsewhere a stream begins with its first event
            with pytest.raises(Exception, match=r"NotFound|NO_ROUTE"):
                await broker.publish(sent)
        async with HEARING[kind](url, subject) as heard:
            await broker.publish(sent)
            assert await heard() == [Heard(sent.id, sent.body)]


@pytest.mark.parametrize("kind", ["nats", "redis", "rabbit"], indirect=True)
async def test_a_connection_that_ends_is_opened_again(kind: str, url: str, subject: str) -> None:
    """An event that fails meanwhile is published when it is tried again.

    Kafka says itself where its brokers are, so nobody can be put between: see test_kafka.py.
    """
    place = make_url(url)
    async with (
        Line(place.host or "", place.port or 0) as line,
        HEARING[kind](url, subject) as heard,
    ):
        through = place.set(host=line.host, port=line.port)
        async with aclosing(Publisher(through.render_as_string(hide_password=False))) as publisher:
            for number in range(3):
                row = Claimed.as_written(written(subject, {"n": number}, "7"), number, 1)
                while True:
                    await asyncio.sleep(0)
                    with suppress(Exception):  # each client has its own
                        await publisher.publish(row)
                        break
                await line.end()
        assert {each.body["n"] for each in await heard()} == {0, 1, 2}
        assert line.accepted > 1


@pytest.mark.parametrize("kind", ["nats", "redis", "rabbit"], indirect=True)
async def test_a_broker_that_falls_silent_holds_up_no_end(
    kind: str, url: str, subject: str
) -> None:
    """A stop does not wait for its good-bye, and no task is left for ever."""
    place, before = make_url(url), asyncio.all_tasks()
    async with (
        HEARING[kind](url, subject) as heard,
        Line(place.host or "", place.port or 0) as line,
        connected(kind, line.url(place).render_as_string(hide_password=False)) as broker,
    ):
        await broker.publish(event(subject, {"n": 1}))
        line.fall_silent()
        async with asyncio.timeout(8):
            await broker.close()
        await line.end()
        assert len(await heard()) == 1
    async with asyncio.timeout(8):
        while left := asyncio.all_tasks() - before:
            await asyncio.wait(left)


def test_each_beginning_of_a_url_has_a_broker() -> None:
    """Also those with TLS."""
    assert {scheme: kind.__name__ for scheme, kind in BROKERS.items()} == {
        **dict.fromkeys(("nats", "tls"), "Nats"),
        **dict.fromkeys(("redis", "rediss"), "Redis"),
        **dict.fromkeys(("amqp", "amqps"), "Rabbit"),
        "kafka": "Kafka",
        "memory": "Memory",
    }
