"""What a plugin takes through its context is given back, whatever happens."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from lifecycle import (
    Application,
    ContextClosedError,
    Event,
    LifecycleError,
    Plugin,
    PluginContext,
    PluginFailed,
    PluginFailedError,
    ServiceNotFoundError,
)


async def stubborn(release: asyncio.Event) -> None:
    """Wait for *release*, whatever cancellations come."""
    while not release.is_set():
        try:
            await release.wait()
        except asyncio.CancelledError:
            continue


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until *condition* holds."""
    while not condition():  # noqa: ASYNC110 -- what is awaited has no event of its own
        await asyncio.sleep(0)


class Worker(Plugin):
    """Uses every part of its context."""

    name = "worker"

    def __init__(self) -> None:
        self.left: list[str] = []
        self.seen: list[str] = []
        self.begun = asyncio.Event()
        self.fail = asyncio.Event()

    async def load(self, context: PluginContext) -> None:
        """Take one of each."""
        await context.enter(self.plain())
        context.subscribe("plugin.*", lambda event: self.seen.append(event.topic))
        context.probe("queue", lambda: 3)

    async def start(self, context: PluginContext) -> None:
        """Work in the background."""
        context.spawn(self.work(), name="work")
        await self.begun.wait()

    async def work(self) -> None:
        """Work until told to fail."""
        self.begun.set()
        try:
            await self.fail.wait()
            raise ConnectionError("no network")
        finally:
            self.left.append("task")

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Be a context manager that is not async."""
        yield
        self.left.append("plain")


async def test_context_gives_everything_back() -> None:
    """Tasks, subscriptions, probes and context managers end with their scope."""
    worker = Worker()
    app = Application([worker])
    await app.start()
    assert app.probes["queue"]() == 3
    await app.stop()
    assert worker.left == ["task"]
    await app.unload()
    assert worker.left == ["task", "plain"]
    assert app.probes.keys() == {"journal", "journal_waiting"}
    seen = len(worker.seen)
    app.bus.publish(PluginFailed(plugin="x", hook="load", error="", duration=0))
    assert len(worker.seen) == seen


async def test_failed_background_task_degrades_its_plugin(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A task that raises makes its plugin degraded and unhealthy; its traceback is logged."""
    worker = Worker()
    async with Application([worker]) as app:
        assert (await app.health())["worker"].healthy
        worker.fail.set()
        await until(lambda: app.plugins["worker"].is_degraded)
        health = (await app.health())["worker"]
        assert (health.healthy, health.error) == (False, "is degraded")
        context = app.plugins["worker"].context
        assert context is not None
        context.recovered()
        context.recovered()
        assert (await app.health())["worker"].healthy
        topics = [entry.event.topic for entry in app.journal.entries()]
        assert topics[-2:] == ["plugin.degraded", "plugin.recovered"]
    assert "task work of plugin worker failed" in caplog.text
    assert "no network" in caplog.text


async def test_closed_context_takes_nothing() -> None:
    """What is asked of a context after its scope ended is refused."""
    kept: list[PluginContext] = []

    class Keeper(Plugin):
        name = "keeper"

        async def start(self, context: PluginContext) -> None:
            """Keep the context for too long."""
            kept.append(context)

    async with Application([Keeper()]):
        pass
    (context,) = kept
    with pytest.raises(ContextClosedError, match="context of plugin 'keeper' is closed"):
        context.provide("late", 1)
    with pytest.raises(ContextClosedError):
        context.spawn(asyncio.sleep(0))
    with pytest.raises(ContextClosedError):
        context.subscribe(">", print)


async def test_everything_is_given_back_when_one_thing_fails() -> None:
    """A context manager that fails on the way out does not keep the others."""
    left: list[str] = []

    @contextmanager
    def good() -> Iterator[None]:
        yield
        left.append("good")

    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        yield
        raise OSError("still busy")

    class Holder(Plugin):
        name = "holder"

        async def start(self, context: PluginContext) -> None:
            """Hold a good thing and two broken ones."""
            await context.enter(good())
            await context.enter(broken())
            await context.enter(broken())

    app = Application([Holder()])
    await app.start()
    with pytest.raises(ExceptionGroup) as caught:
        await app.unload()
    assert "still busy" in str(caught.value.exceptions[0])
    assert caught.value.exceptions[0].__notes__ == ["while giving back: OSError: still busy"]
    assert left == ["good"]


async def test_what_was_entered_too_late_is_left_at_once() -> None:
    """A context manager that is still being entered when its hook is given up is not kept."""
    release, left = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        await stubborn(release)
        yield
        left.set()

    class Opener(Plugin):
        name = "p"
        load_timeout = 0.01

        async def load(self, context: PluginContext) -> None:
            """Enter."""
            await context.enter(slow())

    app = Application([Opener])
    with pytest.raises(PluginFailedError, match="ignored its cancellation"):
        await app.start()
    assert not left.is_set()
    release.set()
    await left.wait()
    await app.unload()


async def test_background_task_that_ignores_its_end_is_named() -> None:
    """A task that eats its cancellation costs the stop deadline and fails its plugin."""
    release = asyncio.Event()

    class Undead(Plugin):
        name = "p"
        stop_timeout = 0.02

        async def start(self, context: PluginContext) -> None:
            """Spawn a task that does not end, and one that ends badly."""
            context.spawn(stubborn(release))
            context.spawn(self.grumble())
            await asyncio.sleep(0)

        async def grumble(self) -> None:
            """Raise at the end."""
            try:
                await asyncio.Event().wait()
            finally:
                raise OSError("not now")

    app = Application([Undead])
    await app.start()
    with pytest.raises(ExceptionGroup) as caught:
        await app.unload()
    (failure,) = caught.value.exceptions
    assert isinstance(failure, PluginFailedError)
    assert str(failure.error) == "not now"
    assert "ignored its cancellation" in failure.__notes__[0]
    release.set()
    await asyncio.sleep(0)


async def test_names_are_taken_once() -> None:
    """A service or probe that is there already, or has a bad name, is refused by name."""

    class Greedy(Plugin):
        name = "p"

        async def start(self, context: PluginContext) -> None:
            """Try to take everything twice."""
            context.provide("resource", 1)
            context.probe("level", lambda: 1)
            with pytest.raises(LifecycleError, match="probe 'level' of plugin 'p' is taken"):
                context.probe("level", lambda: 2)
            with pytest.raises(LifecycleError, match="service 'p:resource' is provided already"):
                context.provide("resource", 1)
            with pytest.raises(LifecycleError, match="service name 'x' is not of the form"):
                context.services.provide("x", 1)
            with pytest.raises(ServiceNotFoundError):
                context.services.withdraw("p:x")

    async with Application([Greedy]) as app:
        assert app.services.get("p:x", 7) == 7
        assert list(app.services) == ["p:resource"]
        assert len(app.services) == 1


async def test_services_are_there_while_their_plugin_is_loaded() -> None:
    """A service is provided in load and withdrawn at unload; a missing one names what is there."""

    class Provider(Plugin):
        name = "p"

        async def load(self, context: PluginContext) -> None:
            """Provide a secret."""
            context.provide("key", "hunter2")

    app = Application([Provider])
    await app.start()
    assert app.services["p:key"] == "hunter2"
    assert "p:key" in app.services
    assert repr(app.services) == "<ServiceRegistry p:key>"
    with pytest.raises(ServiceNotFoundError, match="no service 'p:other'; there are: p:key"):
        app.services["p:other"]
    await app.unload()
    assert app.services.names() == ()


async def test_subscriber_finishes_before_its_resources_go() -> None:
    """An async handler at work is waited for when its scope ends; it may be what ends it."""
    steps: list[str] = []
    hurry = asyncio.Event()

    class Listener(Plugin):
        name = "p"

        async def load(self, context: PluginContext) -> None:
            """Hold something that the handler uses."""
            await context.enter(self.resource())
            context.subscribe("app.started", self.handle)

        @contextmanager
        def resource(self) -> Iterator[None]:
            """Be there while the handler works."""
            yield
            steps.append("resource gone")

        async def handle(self, event: Event) -> None:
            """Work slowly."""
            del event
            await hurry.wait()
            steps.append("handled")

        async def unload(self, context: PluginContext) -> None:
            """Let the handler come to its end."""
            del context
            asyncio.get_running_loop().call_soon(hurry.set)

    async with Application([Listener]) as app:
        await asyncio.sleep(0)
    assert steps == ["handled", "resource gone"]

    async def unload(event: Event) -> None:
        del event
        await app.unload("p")
        steps.append("unloaded by a handler")

    class Suicidal(Plugin):
        name = "p"

        async def load(self, context: PluginContext) -> None:
            """Listen with what unloads this plugin."""
            context.subscribe("app.started", unload)

    app = Application([Suicidal])
    await app.start()
    await until(lambda: steps[-1] == "unloaded by a handler")
    await app.bus.drain()
    assert [entry.event.topic for entry in app.journal.entries()].count("plugin.failed") == 0


async def test_subscriber_that_hangs_costs_the_deadline() -> None:
    """A handler that does not end is cancelled, and its plugin's unload has failed."""

    class Listener(Plugin):
        name = "p"
        unload_timeout = 0.01

        async def load(self, context: PluginContext) -> None:
            """Listen for ever."""
            context.subscribe("app.started", self.handle)

        async def handle(self, event: Event) -> None:
            """Hang."""
            del event
            await asyncio.Event().wait()

    app = Application([Listener])
    await app.start()
    await asyncio.sleep(0)
    with pytest.raises(ExceptionGroup) as caught:
        await app.unload()
    assert "did not end within" in str(caught.value.exceptions[0])
    assert await app.bus.drain(1)
