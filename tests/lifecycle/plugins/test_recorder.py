"""What is not in the journal did not happen; but what is held is given back without it too."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lifecycle import (
    AppCrashed,
    AppDrained,
    Application,
    Event,
    JournalError,
    MemoryJournal,
    Plugin,
    PluginContext,
    PluginFailedError,
    State,
    replay,
)
from lifecycle.journal import JournalEntry


class Part(Plugin):
    """A plugin that holds something while it is loaded, and something while it is started."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: list[str] = []

    @contextmanager
    def holding(self, hook: str) -> Iterator[None]:
        """Hold something for the time of the block."""
        self.held.append(hook)
        yield
        self.held.remove(hook)

    async def load(self, context: PluginContext) -> None:
        """Take something and provide it."""
        await context.enter(self.holding("load"))
        context.provide("thing", 1)

    async def start(self, context: PluginContext) -> None:
        """Take something."""
        await context.enter(self.holding("start"))


def states(app: Application) -> set[State]:
    """Return the live states; they are checked to be the fold of the journal."""
    live = {name: managed.state for name, managed in app.plugins.items()}
    folded = replay(app.journal.entries())
    assert live == {name: folded.get(name, State.UNLOADED) for name in live}
    return set(live.values())


class FullDisk(MemoryJournal):
    """A journal that takes no event of some topics."""

    def __init__(self, *topics: str) -> None:
        super().__init__()
        self.topics = topics

    def append(self, event: Event) -> JournalEntry:
        """Refuse what the test wants refused."""
        if event.topic in self.topics:
            raise JournalError("disk full")
        return super().append(event)


@pytest.mark.parametrize("topic", ["plugin.loading", "plugin.loaded", "plugin.started"])
async def test_start_without_a_journal_is_unwound(topic: str) -> None:
    """A transition that cannot be recorded does not happen: the start fails and goes back."""
    part = Part("p")
    app = Application([part], journal=FullDisk(topic))
    seen: list[str] = []
    app.bus.subscribe("plugin.*", lambda event: seen.append(event.topic))
    with pytest.raises((JournalError, PluginFailedError), match="disk full"):
        await app.start()
    assert part.held == []
    assert topic not in seen
    assert states(app) <= {State.UNLOADED, State.FAILED}
    await app.unload()


async def test_stop_goes_on_without_a_journal() -> None:
    """A broken journal does not keep plugins from stopping; it is reported once."""
    journal = FullDisk("plugin.stopping")
    parts = [Part(name) for name in "abc"]
    app = Application(parts, journal=journal)
    seen: list[str] = []
    await app.start()
    app.bus.subscribe("plugin.*", lambda event: seen.append(event.topic))
    with pytest.raises(ExceptionGroup) as caught:
        await app.unload()
    assert [str(error) for error in caught.value.exceptions] == ["disk full"]
    assert seen == []
    lost = [event.topic for event in app._recorder.unrecorded]
    assert lost[:2] == ["plugin.stopping", "plugin.stopped"]
    assert lost[-1] == "plugin.unloaded"
    assert [part.held for part in parts] == [[], [], []]
    assert {m.state for m in app.plugins.values()} == {State.UNLOADED}
    journal.topics = ()
    await app.start()
    assert states(app) == {State.STARTED}
    await app.unload()


async def test_facts_of_others_are_recorded_while_a_run_is_open() -> None:
    """`record` appends and publishes during a run, and only publishes before and after."""
    app = Application([Part("p")])
    seen: list[Event] = []
    app.bus.subscribe("app.drained", seen.append)
    drained = AppDrained(waited=0, duration=0)
    app.record(drained)
    async with app:
        app.record(drained)
    assert seen == [drained, drained]
    topics = [entry.event.topic for entry in app.journal.entries()]
    assert topics.count("app.drained") == 1


async def test_start_is_refused_once_the_journal_has_a_hole() -> None:
    """After an event was lost, nothing is started in this run; the next run is whole again."""
    journal = FullDisk("plugin.degraded")
    app = Application([Part("p"), Part("q")], journal=journal)
    await app.start("p")
    context = app.plugins["p"].context
    assert context is not None
    context.degraded("lost")
    assert app.plugins["p"].is_degraded
    with pytest.raises(JournalError, match=r"failed earlier in this run .* start again"):
        await app.start()
    with pytest.raises(ExceptionGroup, match="not without errors"):
        await app.unload()
    async with app:
        assert states(app) == {State.STARTED}


async def test_dead_run_is_reported_in_the_next() -> None:
    """A run without an end is told as the first event of the run after it."""

    class Reopened(MemoryJournal):
        def open(self) -> AppCrashed:
            """Find a dead run."""
            super().open()
            return AppCrashed(run=7, last_topic="plugin.starting", last_plugin="p")

    app = Application([Part("p")], journal=Reopened())
    seen: list[Event] = []
    app.bus.subscribe("app.crashed", seen.append)
    async with app:
        first = next(iter(app.journal.entries()))
    assert [first.event] == seen
    assert app.bus.run == app.journal.run
