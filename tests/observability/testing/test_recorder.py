"""The recorder: what it asserts, and the texts of its failures."""

import asyncio
from collections.abc import Iterator
from typing import ClassVar

import pytest

from lifecycle.bus import EventBus
from lifecycle.correlation import correlate
from lifecycle.event import Event
from observability.testing import EventRecorder, Story, record


class Begun(Event):
    """A unit begins."""

    topic: ClassVar[str] = "test_testing.begin"

    unit: int


class Committed(Event):
    """A unit is committed."""

    topic: ClassVar[str] = "test_testing.commit"

    unit: int


class RolledBack(Event):
    """A unit is rolled back."""

    topic: ClassVar[str] = "test_testing.rollback"

    unit: int
    cause: str
    error: str = ""
    tables: tuple[str, ...] = ()


BEGIN, COMMIT, ROLLBACK = "test_testing.begin", "test_testing.commit", "test_testing.rollback"


@pytest.fixture
def bus() -> EventBus:
    """A bus."""
    return EventBus()


@pytest.fixture
def events(bus: EventBus) -> Iterator[EventRecorder]:
    """A recorder of two units: update 7 commits unit 1, update 8 of `notes` rolls unit 2 back."""
    with record(bus) as recorder:
        with correlate(update_id=7):
            bus.publish(Begun(unit=1))
            bus.publish(Committed(unit=1))
        with correlate(update_id=8, plugin="notes"):
            bus.publish(Begun(unit=2))
            bus.publish(RolledBack(unit=2, cause="error", error="ValueError: no", tables=("a",)))
        yield recorder


STORY = """\
    1 test_testing.begin   update_id=7 unit=1
    2 test_testing.commit  update_id=7 unit=1
    3 test_testing.begin   update_id=8 plugin='notes' unit=2
    4 test_testing.rollback update_id=8 plugin='notes' unit=2 cause='error' \
error='ValueError: no' tables=('a',)"""


def failure(marks: dict[int, str]) -> str:
    """Return the whole story with a mark behind some of its events."""
    return "\n".join(
        f"{line}  <-- {marks[number]}" if number in marks else line
        for number, line in enumerate(STORY.split("\n"), 1)
    )


def test_what_is_true_passes(events: EventRecorder) -> None:
    """Order, payload and absence that are true raise nothing."""
    events.assert_sequence()
    events.assert_sequence(BEGIN, COMMIT, ROLLBACK)
    events.assert_sequence("test_testing.*", ">", ROLLBACK)
    events.assert_exactly(BEGIN, COMMIT, BEGIN, ROLLBACK)
    events.assert_none(ROLLBACK, cause="cancelled")
    events.assert_none(COMMIT, update_id=8)
    assert events.topics == [BEGIN, COMMIT, BEGIN, ROLLBACK]
    assert repr(events) == "<EventRecorder events=4>"


def test_the_first_event_that_fits_is_returned(events: EventRecorder) -> None:
    """assert_event matches own fields and the correlation, and returns the event."""
    assert events.assert_event(BEGIN) is events.events[0]
    assert events.assert_event(BEGIN, update_id=8) is events.events[2]
    assert events.assert_event(ROLLBACK, cause="error", tables=("a",)) is events.events[3]
    assert events.assert_event("*.rollback", unit=2) is events.events[3]


def test_a_missing_event_of_a_sequence(events: EventRecorder) -> None:
    """The failure shows the whole story and marks after which event the next one is missing."""
    with pytest.raises(AssertionError) as caught:
        events.assert_sequence(BEGIN, ROLLBACK, COMMIT)
    assert str(caught.value) == (
        "'test_testing.commit' is missing after test_testing.begin → test_testing.rollback; "
        "the story was:\n"
        + failure({2: "too early", 4: "expected 'test_testing.commit' after this"})
    )


def test_a_sequence_that_never_begins(bus: EventBus) -> None:
    """An empty story says that it is empty."""
    with record(bus) as events, pytest.raises(AssertionError) as caught:
        events.assert_sequence(BEGIN)
    assert str(caught.value) == (
        "'test_testing.begin' is missing anywhere; the story was:\n  (nothing)"
    )


def test_a_story_that_is_not_exactly_that(events: EventRecorder) -> None:
    """The failure marks the first event that differs, or says that the story is short."""
    with pytest.raises(AssertionError) as caught:
        events.assert_exactly(BEGIN, ROLLBACK)
    assert str(caught.value) == (
        "event 2 is not 'test_testing.rollback'; the story was:\n"
        + failure({2: "expected 'test_testing.rollback'"})
    )
    with pytest.raises(AssertionError, match="event 3 is not the end"):
        events.assert_exactly(BEGIN, COMMIT)
    with pytest.raises(AssertionError, match="event 5 is not 'test_testing"):
        events.assert_exactly(BEGIN, COMMIT, BEGIN, ROLLBACK, COMMIT)


def test_a_payload_that_differs(events: EventRecorder) -> None:
    """The failure says what the events of that topic carry instead."""
    with pytest.raises(AssertionError) as caught:
        events.assert_event(ROLLBACK, cause="cancelled", unit=2)
    assert str(caught.value) == (
        "no 'test_testing.rollback'(cause='cancelled', unit=2) came; the story was:\n"
        + failure({4: "has cause='error'"})
    )


def test_an_unwanted_event(events: EventRecorder) -> None:
    """The failure marks each event that must not come."""
    with pytest.raises(AssertionError) as caught:
        events.assert_none("test_testing.*", update_id=8)
    assert str(caught.value) == (
        "'test_testing.*'(update_id=8) must not come; the story was:\n"
        + failure({3: "unwanted", 4: "unwanted"})
    )


def test_a_slip_of_the_pen_is_no_absence(events: EventRecorder) -> None:
    """An absence of what cannot exist is refused, with the name that may have been meant."""
    with pytest.raises(ValueError, match=r"'test_testing.rolback' \(did you mean 'test_testing.ro"):
        events.assert_none("test_testing.rolback")
    with pytest.raises(ValueError, match=r"has a field 'casue' \(did you mean 'cause'\?\)"):
        events.assert_none(ROLLBACK, casue="error")
    with pytest.raises(ValueError, match="only as the last token"):
        events.assert_none(">.rollback")


def test_a_part_of_the_story(events: EventRecorder) -> None:
    """Updates, units, plugins, topics and any payload give a part that asserts for itself."""
    events.update(7).assert_exactly(BEGIN, COMMIT)
    events.update(7).assert_none(ROLLBACK)
    events.unit(2).assert_exactly(BEGIN, ROLLBACK)
    events.plugin("notes").assert_sequence(BEGIN, ROLLBACK)
    events.topic("*.begin").assert_exactly(BEGIN, BEGIN)
    events.only(cause="error", update_id=8).assert_exactly(ROLLBACK)
    events.update(8).topic(ROLLBACK).assert_event(ROLLBACK, unit=2)
    assert events.update(9).topics == []


def test_recording_ends(bus: EventBus) -> None:
    """After the block nothing is recorded, what was recorded stays; clear forgets it."""
    with EventRecorder(bus, COMMIT) as events:
        bus.publish(Begun(unit=1))
        bus.publish(Committed(unit=1))
    bus.publish(Committed(unit=2))
    assert events.topics == [COMMIT]
    events.clear()
    assert events.topics == []
    assert not bus.subscriptions


async def test_waiting_for_an_event(bus: EventBus) -> None:
    """wait_for returns the first event that fits, whether it came before or comes later."""
    with record(bus) as events:
        bus.publish(Begun(unit=1))
        assert (await events.wait_for(BEGIN)) is events.events[0]
        waiting = [
            asyncio.create_task(events.wait_for("test_testing.*", unit=3)),
            asyncio.create_task(events.wait_for(COMMIT)),
        ]
        await asyncio.sleep(0)
        events.clear()
        bus.publish(Begun(unit=2))
        await asyncio.sleep(0)
        events.clear()
        bus.publish(Begun(unit=3))
        bus.publish(Committed(unit=3))
        assert await asyncio.gather(*waiting) == events.events


async def test_waiting_in_vain(events: EventRecorder) -> None:
    """When the time is over the failure says what did not come, and the whole story."""
    with pytest.raises(AssertionError) as caught:
        await events.wait_for(COMMIT, timeout=0.001, unit=2)
    assert str(caught.value) == (
        "'test_testing.commit'(unit=2) did not come in 0.001 s; the story was:\n" + STORY
    )


async def test_a_test_that_is_cancelled_while_it_waits(bus: EventBus) -> None:
    """A cancelled wait is cancelled, not taken for a time that is over."""
    with record(bus) as events:
        waiting = asyncio.create_task(events.wait_for(COMMIT))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


def test_a_story_of_your_own(events: EventRecorder) -> None:
    """Any events make a story: those of a journal, for example."""
    Story(events.events[:2]).assert_exactly(BEGIN, COMMIT)
