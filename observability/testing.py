"""A recorder of events that says what must and what must not happen, in one line."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from lifecycle.bus import EventBus
from lifecycle.events import Event


class EventRecorder:
    """Keeps every event of a bus in order; a context manager.

        with EventRecorder(app.bus) as events:
            ...
        events.assert_sequence("uow.begin", "uow.commit", "uow.close")
        events.assert_none("uow.rollback")

    Args:
        bus: The bus.
        pattern: Which events are kept.
    """

    def __init__(self, bus: EventBus, pattern: str = ">") -> None:
        self.events: list[Event] = []
        self._arrived = asyncio.Event()
        self._subscription = bus.subscribe(pattern, self._keep)

    def _keep(self, event: Event) -> None:
        self.events.append(event)
        self._arrived.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Record no more; what was recorded stays."""
        self._subscription.cancel()

    def clear(self) -> None:
        """Forget what was recorded."""
        self.events.clear()

    @property
    def topics(self) -> list[str]:
        """The topics in the order they came."""
        return [event.topic for event in self.events]

    # -- a part of the story --------------------------------------------------------------

    def only(self, **payload: Any) -> "Story":
        """Return the part of the story whose events carry *payload*.

        Args:
            **payload: Fields of the event or its correlation, such as `update_id=7`, `unit=3` or
                `plugin="notes"`.
        """
        return Story(event for event in self.events if _matches(event, payload))

    def topic(self, pattern: str) -> "Story":
        """Return the part of the story whose topics match *pattern*, as `uow.*`."""
        return Story(event for event in self.events if _topic_matches(event.topic, pattern))

    # -- assertions -----------------------------------------------------------------------

    def assert_sequence(self, *topics: str) -> None:
        """Assert that *topics* came, in this order; others may stand between.

        Raises:
            AssertionError: They did not; the text shows the whole story and the first difference.
        """
        Story(self.events).assert_sequence(*topics)

    def assert_event(self, topic: str, **payload: Any) -> Event:
        """Assert that an event came with at least this *payload*, and return the first.

        Raises:
            AssertionError: It did not; the text shows the whole story.
        """
        return Story(self.events).assert_event(topic, **payload)

    def assert_none(self, pattern: str, **payload: Any) -> None:
        """Assert that no event matched *pattern* and *payload*.

        Raises:
            AssertionError: One did; the text marks it in the whole story.
        """
        Story(self.events).assert_none(pattern, **payload)

    async def wait_for(
        self,
        topic: str,
        *,
        timeout: float = 5.0,  # noqa: ASYNC109 -- the error shows the story
        **payload: Any,
    ) -> Event:
        """Wait until an event of *topic* with *payload* is there, and return it.

        Args:
            topic: Its topic, or a pattern.
            timeout: Seconds to wait.
            **payload: Fields it must carry.

        Raises:
            AssertionError: It did not come in time; the text shows the whole story.
        """
        seen = 0
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for event in self.events[seen:]:
                        if _topic_matches(event.topic, topic) and _matches(event, payload):
                            return event
                    seen = len(self.events)
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            wanted = _describe(topic, payload)
            raise AssertionError(
                f"{wanted} did not come in {timeout:g} s; the story was:\n{_story(self.events)}"
            ) from None


class Story:
    """A part of what was recorded.

    Args:
        events: The events, in order.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.events = list(events)

    def assert_sequence(self, *topics: str) -> None:
        """Assert that *topics* came, in this order; others may stand between."""
        wanted = list(topics)
        for event in self.events:
            if wanted and _topic_matches(event.topic, wanted[0]):
                wanted.pop(0)
        if not wanted:
            return
        found = topics[: len(topics) - len(wanted)]
        last = _last_of(self.events, found)
        raise AssertionError(
            f"{wanted[0]!r} is missing after {' → '.join(found) or 'the begin'}; the story was:\n"
            + _story(
                self.events, lambda index, _: "  <-- nothing wanted after this" * (index == last)
            )
        )

    def assert_exactly(self, *topics: str) -> None:
        """Assert that *topics* came, in this order, and nothing else."""
        mine = [event.topic for event in self.events]
        if mine == list(topics):
            return
        pairs = zip(mine, topics, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(mine), len(topics)))
        wanted = repr(topics[first]) if first < len(topics) else "the end"
        raise AssertionError(
            f"expected {wanted} as event {first + 1}; the story was:\n"
            + _story(self.events, lambda index, _: f"  <-- expected {wanted}" * (index == first))
        )

    def assert_event(self, topic: str, **payload: Any) -> Event:
        """Assert that an event came with at least this *payload*, and return the first."""
        for event in self.events:
            if _topic_matches(event.topic, topic) and _matches(event, payload):
                return event

        def differs(_index: int, event: Event) -> str:
            if not _topic_matches(event.topic, topic):
                return ""
            fields = event.as_dict()
            wrong = [f"{k}={fields.get(k)!r}" for k, v in payload.items() if fields.get(k) != v]
            return f"  <-- has {', '.join(wrong)}"

        raise AssertionError(
            f"no {_describe(topic, payload)}; the story was:\n{_story(self.events, differs)}"
        )

    def assert_none(self, pattern: str, **payload: Any) -> None:
        """Assert that no event matched *pattern* and *payload*."""

        def unwanted(_index: int, event: Event) -> str:
            match = _topic_matches(event.topic, pattern) and _matches(event, payload)
            return "  <-- unwanted" if match else ""

        if any(unwanted(0, event) for event in self.events):
            raise AssertionError(
                f"{_describe(pattern, payload)} was not to come; the story was:\n"
                + _story(self.events, unwanted)
            )


def _matches(event: Event, payload: Mapping[str, Any]) -> bool:
    if not payload:
        return True
    fields = event.as_dict()
    return all(name in fields and fields[name] == value for name, value in payload.items())


def _topic_matches(topic: str, pattern: str) -> bool:
    mine, wanted = topic.split("."), pattern.split(".")
    if wanted[-1] == ">":
        if len(mine) < len(wanted):
            return False
        mine, wanted = mine[: len(wanted) - 1], wanted[:-1]
    return len(mine) == len(wanted) and all(
        w in {"*", m} for m, w in zip(mine, wanted, strict=True)
    )


def _last_of(events: list[Event], found: tuple[str, ...]) -> int:
    wanted, last = list(found), -1
    for index, event in enumerate(events):
        if wanted and _topic_matches(event.topic, wanted[0]):
            wanted.pop(0)
            last = index
    return last


def _describe(topic: str, payload: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{name}={value!r}" for name, value in payload.items())
    return f"{topic!r}({fields})" if fields else f"{topic!r}"


def _story(events: list[Event], mark: Callable[[int, Event], str] = lambda _i, _e: "") -> str:
    if not events:
        return "  (nothing)"
    lines = []
    for index, event in enumerate(events):
        fields = {k: v for k, v in event.as_dict().items() if k not in {"topic", "at"}}
        text = " ".join(f"{name}={value!r}" for name, value in fields.items() if value != "")
        lines.append(f"  {index + 1:3} {event.topic:<20} {text}{mark(index, event)}")
    return "\n".join(lines)
