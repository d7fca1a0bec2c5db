"""The brokers, as FastStream reaches them: each says that it has an event before it is sent."""

from typing import Any, ClassVar, Final, Protocol

from db_manager.delivery.broker.outgoing import OutgoingEvent

#: Header with the id of an event; brokers that know copies by themselves have it in their own, too.
ID: Final = "event-id"
#: Seconds until a broker has said that it has an event.
ANSWER: Final = 5.0


class Broker(Protocol):
    """Where events go.

    Args:
        url: Where it is.

    Raises:
        ImportError: The client of this broker is not installed.
    """

    #: Part of FastStream that reaches it, as `pip` calls it.
    extra: ClassVar[str]
    #: Errors by which it says that it will never take an event.
    refusals: tuple[type[Exception], ...]

    def __init__(self, url: str) -> None: ...

    async def connect(self) -> None:
        """Connect; from then on its client sees to the connection."""

    async def publish(self, event: OutgoingEvent) -> None:
        """Return once the broker has *event*."""

    async def close(self) -> None:
        """Give everything back, in a few seconds also when it has fallen silent."""


class Nats:
    """JetStream: its streams know a copy by `Nats-Msg-Id`. An event waits for a stream."""

    extra: ClassVar[str] = "nats"

    def __init__(self, url: str) -> None:
        from faststream.nats import NatsBroker  # noqa: PLC0415 -- an extra
        from nats.errors import MaxPayloadError  # noqa: PLC0415 -- with faststream[nats]

        self._broker = NatsBroker(
            url, logger=None, max_reconnect_attempts=-1, reconnect_time_wait=1, connect_timeout=2
        )
        self.refusals: tuple[type[Exception], ...] = (MaxPayloadError,)
        self._client: Any = None
        self._streams: dict[str, str] = {}

    async def connect(self) -> None:
        """Connect; the client goes on trying for ever."""
        self._client = await self._broker.connect()

    async def publish(self, event: OutgoingEvent) -> None:
        """Return once its stream has *event*."""
        stream = self._streams.get(event.subject)
        if stream is None:
            known = self._client.jetstream()
            stream = await known.find_stream_name_by_subject(event.subject)
            self._streams[event.subject] = stream
        headers = {"Nats-Msg-Id": event.id, ID: event.id}
        await self._broker.publish(
            event.body,
            event.subject,
            headers=headers,
            correlation_id=event.id,
            stream=stream,
            timeout=ANSWER,
        )

    async def close(self) -> None:
        """Close the connection. FastStream would wait for an answer first."""
        if self._client is not None:
            await self._client.close()


class Redis:
    """A stream of Redis for each subject."""

    extra: ClassVar[str] = "redis"

    def __init__(self, url: str) -> None:
        from faststream.redis import RedisBroker  # noqa: PLC0415 -- an extra

        self._broker = RedisBroker(url, socket_timeout=ANSWER)
        self.refusals: tuple[type[Exception], ...] = ()

    async def connect(self) -> None:
        """Connect; the client does it anew for each command, where it must."""
        await self._broker.connect()

    async def publish(self, event: OutgoingEvent) -> None:
        """Return once the stream has *event*."""
        await self._broker.publish(
            event.body, stream=event.subject, headers={ID: event.id}, correlation_id=event.id
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._broker.stop()


class Rabbit:
    """The exchange `amq.topic` of RabbitMQ. An event waits for a queue that is bound to it."""

    extra: ClassVar[str] = "rabbit"

    def __init__(self, url: str) -> None:
        from faststream.rabbit import (  # noqa: PLC0415 -- an extra
            Channel,
            ExchangeType,
            RabbitBroker,
            RabbitExchange,
        )

        self._broker = RabbitBroker(
            url, logger=None, default_channel=Channel(on_return_raises=True), timeout=ANSWER
        )
        self._exchange = RabbitExchange(
            "amq.topic", type=ExchangeType.TOPIC, durable=True, declare=False
        )
        self.refusals: tuple[type[Exception], ...] = ()
        self._connection: Any = None

    async def connect(self) -> None:
        """Connect; the client does it anew by itself."""
        self._connection = await self._broker.connect()

    async def publish(self, event: OutgoingEvent) -> None:
        """Return once a queue has *event*, on its disk."""
        await self._broker.publish(
            event.body,
            exchange=self._exchange,
            routing_key=event.subject,
            mandatory=True,
            persist=True,
            message_id=event.id,
            correlation_id=event.id,
            headers={ID: event.id},
            timeout=ANSWER,
        )

    async def close(self) -> None:
        """Close the connection. FastStream would wait for an answer first, of the channel."""
        if self._connection is not None:
            await self._connection.close()


class Kafka:
    """A topic of Kafka for each subject; events of one key are in one partition."""

    extra: ClassVar[str] = "kafka"

    def __init__(self, url: str) -> None:
        from aiokafka.errors import MessageSizeTooLargeError  # noqa: PLC0415 -- with faststream[kafka]
        from faststream.kafka import KafkaBroker  # noqa: PLC0415 -- an extra

        self._servers = url.partition("://")[2].rstrip("/").split(",")
        # Not idempotent: such a producer never gives up what it was given, and would send all that
        # was tried again meanwhile once Kafka is back, and not end before.
        self._answer = int(1000 * ANSWER)
        self._broker = KafkaBroker(
            self._servers,
            logger=None,
            acks="all",
            request_timeout_ms=self._answer,
            retry_backoff_ms=1000,
        )
        self.refusals: tuple[type[Exception], ...] = (MessageSizeTooLargeError,)

    async def connect(self) -> None:
        """Connect; the client does it anew by itself."""
        from aiokafka.admin import AIOKafkaAdminClient  # noqa: PLC0415 -- with faststream[kafka]

        # Asked first: FastStream leaves a producer unclosed that could not connect.
        asking = AIOKafkaAdminClient(
            bootstrap_servers=self._servers, request_timeout_ms=self._answer
        )
        try:
            await asking.start()
        finally:
            await asking.close()
        await self._broker.connect()

    async def publish(self, event: OutgoingEvent) -> None:
        """Return once all replicas of the partition that are in step have *event*."""
        key = event.key.encode() or None
        await self._broker.publish(
            event.body, event.subject, key=key, headers={ID: event.id}, correlation_id=event.id
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._broker.stop()


class Memory:
    """A list: of tests, and of a bot at its author's desk."""

    extra: ClassVar[str] = ""
    #: What was published, by the URL.
    taken: ClassVar[dict[str, list[OutgoingEvent]]] = {}

    def __init__(self, url: str) -> None:
        self._taken = self.taken.setdefault(url, [])
        self.refusals: tuple[type[Exception], ...] = ()

    async def connect(self) -> None:
        """Be there."""

    async def publish(self, event: OutgoingEvent) -> None:
        """Take *event*."""
        self._taken.append(event)

    async def close(self) -> None:
        """Keep what was taken."""


#: The broker of each beginning of a URL.
BROKERS: Final[dict[str, type[Any]]] = {
    "nats": Nats,
    "tls": Nats,
    "redis": Redis,
    "rediss": Redis,
    "amqp": Rabbit,
    "amqps": Rabbit,
    "kafka": Kafka,
    "memory": Memory,
}
