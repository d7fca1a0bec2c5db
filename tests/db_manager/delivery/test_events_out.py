"""`uow.publish`: a broker has the events of committed units, in the order of their keys."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, ClassVar

import pytest
from aiogram import Bot
from aiogram.methods import SendMessage
from pydantic import BaseModel
from sqlalchemy.engine import URL
from support.kept import PATIENCE, Kept, kept

from db_manager.delivery import DeliveryConfig, DeliveryPlugin
from db_manager.delivery.broker import brokers
from db_manager.delivery.broker.outgoing import OutgoingEvent
from db_manager.delivery.broker.publisher import Publisher
from db_manager.errors import ConfigError, UnitOfWorkStateError
from db_manager.sending import DeliveryOffError, MessageDeadError, NotStorableError
from db_manager.testing import Databases, Outbox, Sandbox

URL_OF_BROKER = "listed://user:c4n4ry@nowhere"


@pytest.fixture(params=["sqlite", "asyncpg"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own: events are rows as messages are."""
    kind = "sqlite" if request.param == "sqlite" else "postgres"
    found: URL = request.getfixturevalue(f"{kind}_database")
    return found


class TooLargeError(Exception):
    """A broker will never take this."""


class ListedBroker:
    """A broker that is a list, and is away or refuses when a test says so."""

    extra = "listed"
    refusals = (TooLargeError,)
    #: What it has, each time that it was given.
    got: ClassVar[list[OutgoingEvent]] = []
    #: Called with each event before it is taken.
    before: ClassVar[Callable[[OutgoingEvent], Any]] = staticmethod(lambda _: None)
    made: ClassVar[int] = 0

    def __init__(self, url: str) -> None:
        assert url == URL_OF_BROKER

    async def connect(self) -> None:
        """Be there."""
        type(self).made += 1

    async def publish(self, event: OutgoingEvent) -> None:
        """Take an event."""
        type(self).before(event)
        await asyncio.sleep(0)
        self.got.append(event)

    async def close(self) -> None:
        """Be gone."""


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[ListedBroker]]:
    """The broker of the scheme `listed`."""
    monkeypatch.setitem(brokers.BROKERS, "listed", ListedBroker)
    monkeypatch.setattr(ListedBroker, "before", staticmethod(lambda _: None))
    monkeypatch.setattr(ListedBroker, "made", 0)
    ListedBroker.got.clear()
    yield ListedBroker
    ListedBroker.got.clear()


def keys(**more: Any) -> dict[str, Any]:
    """Return the keys of [delivery]."""
    return {"broker": URL_OF_BROKER, **more}


async def test_an_event_of_a_committed_unit_is_published(
    url: URL, bot: Bot, broker: type[ListedBroker]
) -> None:
    """Its row says so, and what it said is erased."""
    async with kept(url, bot, **keys()) as app:
        async with app.units() as uow:
            sending = uow.publish("notes.added", {"id": 7, "text": "молоко"}, key="7")
            assert broker.got == []
        assert await sending is None
        await app.settled()
        [event] = broker.got
        assert (event.subject, event.key, event.body) == (
            "notes.added",
            "7",
            {"id": 7, "text": "молоко"},
        )
        assert await app.rows("bot_id, lane, method, payload, state") == [
            (0, "0:7", "notes.added", None, 1)
        ]
        [told] = app.of("message.sent")
        assert (told.message, told.bot_id, told.method) == (sending.id, 0, "notes.added")


async def test_a_worker_publishes_where_processes_share_a_database(
    url: URL, bot: Bot, broker: type[ListedBroker]
) -> None:
    """Without a bot; on SQLite, which has one process that sends, the bot's does it."""
    async with kept(url, **keys()) as worker:
        async with worker.units() as uow:
            uow.publish("notes.added", 7)
        if url.get_backend_name() == "sqlite":
            assert await worker.rows("state, owner") == [(0, None)]
        else:
            await worker.settled()
    async with kept(url, bot, **keys()) as app:
        await app.settled()
    assert [event.body for event in broker.got] == [7]


@pytest.mark.parametrize("how", ["unit", "savepoint"])
async def test_nothing_is_published_of_what_is_rolled_back(
    url: URL, bot: Bot, broker: type[ListedBroker], how: str
) -> None:
    """With its unit, or with its savepoint alone."""
    async with kept(url, bot, **keys()) as app:
        with pytest.raises(ZeroDivisionError):
            async with app.units() as uow:
                if how == "unit":
                    uow.publish("notes.added")
                    raise ZeroDivisionError
                async with uow.savepoint():
                    uow.publish("notes.added")
                    raise ZeroDivisionError
        async with app.units() as uow:
            uow.publish("notes.removed")
        await app.settled()
    assert [(event.subject, event.body) for event in broker.got] == [("notes.removed", None)]


async def test_a_model_is_its_json(
    sqlite_database: URL, bot: Bot, broker: type[ListedBroker]
) -> None:
    """A moment is text, as JSON has none."""

    class Note(BaseModel):
        at: datetime

    async with kept(sqlite_database, bot, **keys()) as app:
        async with app.units() as uow:
            uow.publish("notes.added", Note(at=datetime(2026, 1, 2, 3)))  # noqa: DTZ001 -- as a user writes it
        await app.settled()
    assert broker.got[0].body == {"at": "2026-01-02T03:00:00"}


async def test_events_of_one_key_come_in_order_through_an_outage(
    url: URL, bot: Bot, broker: type[ListedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each again with the same id until the broker has it; those of other keys do not wait."""
    tried: Counter[str] = Counter()
    ids: set[str] = set()

    def be_away(event: OutgoingEvent) -> None:
        tried[event.key] += 1
        ids.add(event.id)
        if event.key == "1" and tried["1"] < 4:
            raise ConnectionResetError

    monkeypatch.setattr(broker, "before", staticmethod(be_away))
    async with kept(url, bot, **keys()) as app:
        for number in range(6):
            async with app.units() as uow:
                for key in ("1", "2"):
                    uow.publish("counted", number, key=key)
        await app.settled()
    came = {key: [each.body for each in broker.got if each.key == key] for key in ("1", "2")}
    assert came == {"1": list(range(6)), "2": list(range(6))}
    assert broker.got[0].key == "2"
    assert len(ids) == 12
    assert len({event.id for event in broker.got}) == 12


async def test_one_without_a_key_waits_for_nobody(
    url: URL, bot: Bot, broker: type[ListedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an earlier one is not taken, the later one is."""

    def take_the_second(event: OutgoingEvent) -> None:
        if event.body == 1 and not broker.got:
            raise ConnectionResetError

    monkeypatch.setattr(broker, "before", staticmethod(take_the_second))
    async with kept(url, bot, **keys()) as app:
        async with app.units() as uow:
            for number in (1, 2):
                uow.publish("counted", number)
        await app.settled()
    assert [event.body for event in broker.got] == [2, 1]


async def test_what_a_process_leaves_the_next_one_publishes(
    url: URL, bot: Bot, broker: type[ListedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its order, and with the ids that it had."""

    def be_away(_: OutgoingEvent) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(broker, "before", staticmethod(be_away))
    async with kept(url, bot, **keys()) as app:
        async with app.units() as uow:
            for number in range(3):
                uow.publish("counted", number, key="1")
        await app.events.wait_for("message.retried", timeout=PATIENCE)
    assert broker.got == []
    monkeypatch.undo()
    monkeypatch.setitem(brokers.BROKERS, "listed", ListedBroker)
    async with kept(url, bot, **keys()) as app:
        await app.settled()
    assert [event.body for event in broker.got] == [0, 1, 2]


async def test_what_a_broker_will_never_take_is_dead(
    url: URL, bot: Bot, broker: type[ListedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the name of the error, and later ones of its key are published."""

    def refuse(event: OutgoingEvent) -> None:
        if event.body == "large":
            raise TooLargeError

    monkeypatch.setattr(broker, "before", staticmethod(refuse))
    async with kept(url, bot, **keys()) as app:
        async with app.units() as uow:
            large, small = (uow.publish("said", each, key="1") for each in ("large", "small"))
        with pytest.raises(MessageDeadError, match="TooLargeError"):
            await large
        await small
        [event] = app.of("message.dead")
        assert event.method == "said"
        assert "TooLargeError" in event.error
    assert [event.body for event in broker.got] == ["small"]


async def test_a_client_that_does_not_come_back_is_made_anew(
    sqlite_database: URL, bot: Bot, broker: type[ListedBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five failures of any events in a row."""

    def work_when_new(_: OutgoingEvent) -> None:
        if broker.made < 2:
            raise ConnectionResetError

    monkeypatch.setattr(broker, "before", staticmethod(work_when_new))
    async with kept(sqlite_database, bot, **keys()) as app:
        async with app.units() as uow:
            for number in range(5):
                uow.publish("counted", number)
        await app.settled()
    assert sorted(event.body for event in broker.got) == list(range(5))
    assert broker.made == 2


async def test_messages_and_events_of_a_unit_go_their_own_ways(
    url: URL, bot: Bot, broker: type[ListedBroker]
) -> None:
    """The bot's to Telegram, the others to the broker."""
    async with kept(url, bot, **keys()) as app:
        async with app.units() as uow:
            answered = uow.send(SendMessage(chat_id=7, text="Noted."))
            uow.publish("sendChatAction", 1)  # a subject is no method
        assert (await answered).text == "Noted."
        await app.settled()
        assert sorted(await app.rows("bot_id, state")) == [(0, 1), (42, 1)]
    assert [event.subject for event in broker.got] == ["sendChatAction"]


REFUSED: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    "no subject": (lambda uow: uow.publish(""), ValueError, "'' is no subject"),
    "a wildcard": (lambda uow: uow.publish("notes.*"), ValueError, "as 'notes.added'"),
    "a blank": (lambda uow: uow.publish("notes added"), ValueError, "is no subject"),
    "a long subject": (lambda uow: uow.publish("a" * 201), ValueError, "at most 200 characters"),
    "a long key": (lambda uow: uow.publish("a", key="k" * 201), ValueError, "a key has at most"),
    "an object": (
        lambda uow: uow.publish("a", {"at": object()}),
        NotStorableError,
        "a cannot be kept until it is sent: payload is no JSON: Object of type object",
    ),
    "no number": (lambda uow: uow.publish("a", float("nan")), NotStorableError, "is no JSON"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_no_event_is_refused_by_name(
    sqlite_database: URL, bot: Bot, broker: type[ListedBroker], what: str
) -> None:
    """Before anything is written; the unit goes on."""
    publish, error, words = REFUSED[what]
    async with kept(sqlite_database, bot, **keys()) as app:
        async with app.units() as uow:
            with pytest.raises(error, match=words):
                publish(uow)
        assert await app.rows() == []
    assert broker.got == []


async def test_without_a_broker_an_event_is_refused(sqlite_database: URL, bot: Bot) -> None:
    """Nobody would publish it; and a unit that reads says nothing."""
    async with kept(sqlite_database, bot) as app:
        async with app.units() as uow:
            with pytest.raises(DeliveryOffError, match=r"\[delivery\] broker ="):
                uow.publish("notes.added")
        async with app.units(read_only=True) as uow:
            with pytest.raises(UnitOfWorkStateError):
                uow.publish("notes.added")


def test_a_broker_that_cannot_be_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not known, or whose client is not installed; its password is not told."""
    with pytest.raises(ConfigError, match="no broker is known for mqtt://; write one of nats://"):
        Publisher("mqtt://user:c4n4ry@host")

    def is_not_installed(_: str) -> None:
        raise ImportError("No module named 'nats'")

    monkeypatch.setattr(brokers.Nats, "__init__", lambda _, url: is_not_installed(url))
    with pytest.raises(ConfigError, match=r"pip install 'faststream\[nats\]'") as caught:
        Publisher("nats://user:c4n4ry@host")
    assert "c4n4ry" not in str(caught.value)


async def test_the_password_of_a_broker_is_told_nowhere(
    sqlite_database: URL,
    bot: Bot,
    broker: type[ListedBroker],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither in events nor in the log, when it is away."""

    def be_away(_: OutgoingEvent) -> None:
        raise ConnectionResetError(URL_OF_BROKER)

    monkeypatch.setattr(broker, "before", staticmethod(be_away))
    async with kept(sqlite_database, bot, **keys()) as app:
        async with app.units() as uow:
            uow.publish("notes.added")
        await app.events.wait_for("message.retried", timeout=PATIENCE)
        assert "c4n4ry" not in str([event.as_dict() for event in app.events.events])
    assert "c4n4ry" not in caplog.text


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of a broker need not be in config.toml; and so each key of the section."""
    for key, value in {"BROKER": "nats://user:c4n4ry@host", "WINDOW": "7", "INBOX": "true"}.items():
        monkeypatch.setenv(f"DELIVERY__{key}", value)
    config = DeliveryConfig.model_validate({"broker": "nats://file", "poll": 2, "window": 3})
    assert config.broker is not None
    assert config.broker.get_secret_value() == "nats://user:c4n4ry@host"
    assert (config.window, config.inbox, config.poll) == (7, True, 2)
    assert "c4n4ry" not in repr(config)
    monkeypatch.setenv("DELIVERY__BROKR", "x")
    with pytest.raises(ValueError, match="did you mean DELIVERY__BROKER"):
        DeliveryConfig.model_validate({})


async def test_a_sandbox_leads_to_no_broker_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, databases: Databases
) -> None:
    """Whatever it names: what a test publishes goes to the sandbox's own list."""
    monkeypatch.setenv("DELIVERY__BROKER", "nats://production")
    async with Sandbox.open(databases) as sandbox:
        app = await sandbox.start(DeliveryPlugin)
        async with app.services["db_manager:uow_factory"]() as uow:
            uow.publish("notes.added", 7)
        outbox = Outbox(sandbox)
        await outbox.settled()
        assert [event.body for event in outbox.published()] == [7]
    assert os.environ["DELIVERY__BROKER"] == "nats://production"


@pytest.mark.parametrize("how", ["refuses", "is silent"])
async def test_a_broker_that_is_away_keeps_no_message_waiting(
    url: URL, bot: Bot, broker: type[ListedBroker], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """However many events wait for it: they have places of their own."""

    async def be_away(_: ListedBroker, event: OutgoingEvent) -> None:
        del event
        if how == "refuses":
            raise ConnectionResetError
        await asyncio.Event().wait()

    monkeypatch.setattr(broker, "publish", be_away)
    async with kept(url, bot, **keys(poll=0.1)) as app:
        async with app.units() as uow:
            for number in range(600):
                uow.publish("counted", number)
        await app.until(lambda: _some_are_held(app))
        async with app.units() as uow:
            answered = uow.send(SendMessage(chat_id=7, text="Noted."))
        async with asyncio.timeout(PATIENCE):
            assert (await answered).text == "Noted."


async def _some_are_held(app: Kept) -> bool:
    [(count,)] = await app.sql("SELECT count(*) FROM delivery__outbox WHERE owner IS NOT NULL")
    return bool(count >= 20)
