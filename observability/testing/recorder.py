"""The recorder of events, and assertions about their order and their fields."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lifecycle.bus import EventBus
from lifecycle.bus.topics import check_pattern, matches
from lifecycle.closing import Closing
from lifecycle.correlation import Correlation
from lifecycle.errors import nearest
from lifecycle.event import EVENT_TYPES, Event


class Story:
    """Events in order, and assertions about them.

    Topics may be patterns such as `uow.*`; a payload is any field of an event or its correlation.

    Args:
        events: The events.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = list(events)

    @property
    def topics(self) -> list[str]:
        """The topics, in order."""
        return [event.topic for event in self.events]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} events={len(self.events)}>"

    def __str__(self) -> str:
        return "\n".join(self._lines(lambda _index, _event: ""))

    # -- a part of it ---------------------------------------------------------------------

    def only(self, **payload: Any) -> "Story":
        """Return the part whose events have *payload*."""
        return Story(event for event in self.events if _carries(event, payload))

    def topic(self, pattern: str) -> "Story":
        """Return the part whose topics match *pattern*."""
        check_pattern(pattern)
        return Story(event for event in self.events if matches(pattern, event.topic))

    def update(self, update_id: int) -> "Story":
        """Return the part that belongs to an update."""
        return self.only(update_id=update_id)

    def unit(self, number: int) -> "Story":
        """Return the part that belongs to a unit of work."""
        return self.only(unit=number)

    def plugin(self, name: str) -> "Story":
        """Return the part that is about a plugin, or caused by its handlers and tasks."""
        return self.only(plugin=name)

    # -- assertions -----------------------------------------------------------------------

    def assert_sequence(self, *topics: str) -> None:
        """Assert that *topics* came in this order; other events may come between.

        Raises:
            AssertionError: They did not; the message shows the story and the first difference.
        """
        __tracebackhide__ = True
        place, found = -1, 0
        for index, event in enumerate(self.events):
            if found < len(topics) and matches(topics[found], event.topic):
                place, found = index, found + 1
        if found == len(topics):
            return
        missing = topics[found]
        after = f"after {' → '.join(topics[:found])}" if found else "anywhere"

        def mark(index: int, event: Event) -> str:
            if index == place:
                return f"expected {missing!r} after this"
            return "too early" if index < place and matches(missing, event.topic) else ""

        raise AssertionError(self._told(f"{missing!r} is missing {after}", mark))

    def assert_exactly(self, *topics: str) -> None:
        """Assert that *topics* came in this order, and nothing else.

        Raises:
            AssertionError: Something else came; the message marks the first difference.
        """
        __tracebackhide__ = True
        pairs = zip(topics, self.topics, strict=False)
        same = [matches(wanted, topic) for wanted, topic in pairs]
        if all(same) and len(topics) == len(self.events):
            return
        first = same.index(False) if False in same else len(same)
        wanted = repr(topics[first]) if first < len(topics) else "the end"

        def mark(index: int, _event: Event) -> str:
            return f"expected {wanted}" if index == first else ""

        raise AssertionError(self._told(f"event {first + 1} is not {wanted}", mark))

    def assert_event(self, topic: str, /, **payload: Any) -> Event:
        """Assert that an event came with at least this *payload*, and return the first.

        Raises:
            AssertionError: None did; the message shows the whole story, and what differs.
        """
        __tracebackhide__ = True
        for event in self.events:
            if matches(topic, event.topic) and _carries(event, payload):
                return event

        def mark(_index: int, event: Event) -> str:
            if not matches(topic, event.topic):
                return ""
            fields = event.as_dict()
            wrong = [name for name, value in payload.items() if fields.get(name) != value]
            return "has " + ", ".join(f"{name}={fields.get(name)!r}" for name in wrong)

        raise AssertionError(self._told(f"no {_described(topic, payload)} came", mark))

    def assert_none(self, topic: str, /, **payload: Any) -> None:
        """Assert that no event of *topic* with this *payload* came.

        Raises:
            AssertionError: One did; the message marks it in the whole story.
            ValueError: No event has such a topic or field: with a typo the assertion would always
                hold.
        """
        __tracebackhide__ = True
        _check_known(topic, payload)

        def mark(_index: int, event: Event) -> str:
            unwanted = matches(topic, event.topic) and _carries(event, payload)
            return "unwanted" if unwanted else ""

        if any(mark(0, event) for event in self.events):
            raise AssertionError(self._told(f"{_described(topic, payload)} must not come", mark))

    def _told(self, problem: str, mark: Callable[[int, Event], str]) -> str:
        return "\n".join([f"{problem}; the story was:", *self._lines(mark)])

    def _lines(self, mark: Callable[[int, Event], str]) -> list[str]:
        lines = []
        for index, event in enumerate(self.events):
            fields = event.as_dict()
            del fields["topic"], fields["at"]
            text = " ".join(f"{k}={v!r}" for k, v in fields.items() if v not in ("", (), None))
            line = f"  {index + 1:3} {event.topic:<20} {text}".rstrip()
            note = mark(index, event)
            lines.append(f"{line}  <-- {note}" if note else line)
        return lines or ["  (nothing)"]


class EventRecorder(Story, Closing):
    """Records the events of a bus, until it is closed; a context manager.

        with record(app.bus) as events:
            ...
        events.assert_sequence("uow.begin", "uow.commit", "uow.close")
        events.assert_none("uow.rollback")

    Args:
        bus: The bus.
        pattern: Topic, or pattern of topics, of the events to record.
    """

    def __init__(self, bus: EventBus, pattern: str = ">") -> None:
        super().__init__()
        self._came = 0
        self._arrived = asyncio.Event()
        self._subscription = bus.subscribe(pattern, self._keep)

    def _keep(self, event: Event) -> None:
        self.events.append(event)
        self._came += 1
        self._arrived.set()

    def close(self) -> None:
        """Stop recording; the recorded events stay."""
        self._subscription.cancel()

    def clear(self) -> None:
        """Forget the recorded events."""
        self.events.clear()

    async def wait_for(
        self,
        topic: str,
        /,
        *,
        timeout: float = 5.0,  # noqa: ASYNC109 -- the error shows the story
        **payload: Any,
    ) -> Event:
        """Wait for an event of *topic* with *payload*, and return it.

        Args:
            topic: Its topic, or a pattern.
            timeout: Seconds to wait.
            **payload: Fields it must have.

        Returns:
            The first such event, even if it came before the call.

        Raises:
            AssertionError: It did not come in time; the message shows the whole story.
        """
        __tracebackhide__ = True
        looked_at = self._came - len(self.events)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    fresh = self._came - looked_at
                    for event in self.events[max(0, len(self.events) - fresh) :]:
                        if matches(topic, event.topic) and _carries(event, payload):
                            return event
                    looked_at = self._came
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pass
        problem = f"{_described(topic, payload)} did not come in {timeout:g} s"
        raise AssertionError(self._told(problem, lambda _index, _event: ""))


def record(bus: EventBus, pattern: str = ">") -> EventRecorder:
    """Return a recorder of the events of *bus*, for use in a `with` statement.

    Args:
        bus: The bus.
        pattern: Topic, or pattern of topics, of the events to record.
    """
    return EventRecorder(bus, pattern)


def _carries(event: Event, payload: Mapping[str, Any]) -> bool:
    if not payload:
        return True
    fields = event.as_dict()
    return all(name in fields and fields[name] == value for name, value in payload.items())


def _check_known(topic: str, payload: Mapping[str, Any]) -> None:
    """Refuse unknown topics and fields, so that no typo passes for an absence.

    Raises:
        ValueError: No event has the topic, or none with that topic has one of the fields.
    """
    check_pattern(topic)
    kinds = [kind for known, kind in EVENT_TYPES.items() if matches(topic, known)]
    if not kinds:
        raise ValueError(f"no event has the topic {topic!r}{nearest(topic, EVENT_TYPES)}")
    fields = set(Correlation.__struct_fields__).union(*(kind.__struct_fields__ for kind in kinds))
    for name in payload:
        if name not in fields:
            raise ValueError(f"no {topic!r} has a field {name!r}{nearest(name, fields)}")


def _described(topic: str, payload: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{name}={value!r}" for name, value in payload.items())
    return f"{topic!r}({fields})" if fields else f"{topic!r}"
