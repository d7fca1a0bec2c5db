import asyncio
from typing import ClassVar

import pytest

from lifecycle.bus import EventBus
from lifecycle.correlation import correlate
from lifecycle.event import Event
from observability.testing import EventRecorder


class Begun(Event):
    topic: ClassVar[str] = "rec.begin"

    unit: int


class Ended(Event):
    topic: ClassVar[str] = "rec.end"

    unit: int
    outcome: str = "ok"


@pytest.fixture
def bus() -> EventBus:
    """Return a bus."""
    return EventBus()


def test_order_may_have_others_between(bus: EventBus) -> None:
    """A sequence holds when its topics come in order, whatever stands between."""
    with EventRecorder(bus) as events:
        bus.publish(Begun(unit=1))
        bus.publish(Begun(unit=2))
        bus.publish(Ended(unit=1))
    events.assert_sequence("rec.begin", "rec.end")
    events.only(unit=1).assert_exactly("rec.begin", "rec.end")


def test_a_missing_topic_is_shown_in_the_whole_story(bus: EventBus) -> None:
    """A failed sequence says what is missing after what, and shows every event."""
    events = EventRecorder(bus)
    bus.publish(Begun(unit=1))
    bus.publish(Begun(unit=2))
    with pytest.raises(AssertionError) as caught:
        events.assert_sequence("rec.begin", "rec.end")
    assert str(caught.value) == (
        "'rec.end' is missing after rec.begin; the story was:\n"
        "    1 rec.begin            unit=1  <-- expected 'rec.end' after this\n"
        "    2 rec.begin            unit=2"
    )


def test_a_wrong_payload_is_marked(bus: EventBus) -> None:
    """A failed payload match shows which event came near, and with what."""
    events = EventRecorder(bus)
    bus.publish(Ended(unit=1, outcome="lost"))
    with pytest.raises(AssertionError, match="<-- has outcome='lost'"):
        events.assert_event("rec.end", outcome="ok")
    assert events.assert_event("rec.*", unit=1).topic == "rec.end"


def test_absence_is_asserted(bus: EventBus) -> None:
    """What must not come is marked when it came."""
    events = EventRecorder(bus)
    bus.publish(Begun(unit=1))
    events.assert_none("rec.end")
    events.assert_none("rec.begin", unit=2)
    with pytest.raises(AssertionError, match="<-- unwanted"):
        events.assert_none("rec.>")


def test_a_part_of_the_story_belongs_to_an_update(bus: EventBus) -> None:
    """`only` filters by the correlation as by the fields."""
    events = EventRecorder(bus)
    with correlate(update_id=7, plugin="notes"):
        bus.publish(Begun(unit=1))
    bus.publish(Begun(unit=2))
    assert [event.as_dict()["unit"] for event in events.only(update_id=7).events] == [1]
    assert [event.as_dict()["unit"] for event in events.only(plugin="notes").events] == [1]
    events.topic("rec.*").assert_exactly("rec.begin", "rec.begin")


async def test_it_waits_for_what_comes_later(bus: EventBus) -> None:
    """`wait_for` returns the event that was there, or the one that comes."""
    events = EventRecorder(bus)
    bus.publish(Begun(unit=1))
    assert await events.wait_for("rec.begin") is events.events[0]
    asyncio.get_running_loop().call_soon(lambda: bus.publish(Ended(unit=1)))
    assert (await events.wait_for("rec.end", unit=1)).topic == "rec.end"


async def test_what_never_comes_is_an_assertion_with_the_story(bus: EventBus) -> None:
    """`wait_for` fails at its deadline and shows what came instead."""
    events = EventRecorder(bus)
    bus.publish(Begun(unit=1))
    with pytest.raises(AssertionError, match=r"'rec.end'\(unit=2\) did not come in 0.01 s"):
        await events.wait_for("rec.end", timeout=0.01, unit=2)
