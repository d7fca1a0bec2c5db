"""The application moves plugins in order, and gives everything back whatever happens."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from lifecycle import (
    Application,
    HookTimeoutError,
    Plugin,
    PluginContext,
    PluginFailed,
    PluginFailedError,
    State,
    WiringError,
    replay,
)


class Log:
    """What the plugins of one test did, and what they hold."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.held: list[str] = []
        #: Lets stubborn hooks go at the end of a test.
        self.release = asyncio.Event()

    @asynccontextmanager
    async def resource(self, name: str) -> AsyncIterator[str]:
        """Hold *name* for the time of the block."""
        self.held.append(name)
        try:
            yield name
        finally:
            self.held.remove(name)


class Part(Plugin):
    """A plugin that takes a resource in each opening hook and misbehaves on demand."""

    load_timeout = 0.05
    start_timeout = 0.05

    def __init__(self, log: Log, name: str, *requires: str, **faults: str) -> None:
        self.log = log
        self.name = name
        self.requires = requires
        self.faults = faults

    async def load(self, context: PluginContext) -> None:
        """Take a resource and provide it."""
        context.provide("resource", await context.enter(self.log.resource(f"{self.name} load")))
        await self.act("load")

    async def start(self, context: PluginContext) -> None:
        """Take another one."""
        await context.enter(self.log.resource(f"{self.name} start"))
        await self.act("start")

    async def stop(self, context: PluginContext) -> None:
        """Only act."""
        del context
        await self.act("stop")

    async def unload(self, context: PluginContext) -> None:
        """Only act."""
        del context
        await self.act("unload")

    async def act(self, hook: str) -> None:
        """Write the call down; fail when the test wants it."""
        self.log.calls.append(f"{self.name} {hook}")
        match self.faults.get(hook):
            case "raise":
                raise RuntimeError(f"{self.name} broke")
            case "hang":
                await asyncio.Event().wait()
            case "cancel":
                raise asyncio.CancelledError
            case "stubborn":
                while not self.log.release.is_set():
                    try:
                        await self.log.release.wait()
                    except asyncio.CancelledError:
                        continue
            case _:
                await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until *condition* holds."""
    while not condition():  # noqa: ASYNC110 -- what is awaited has no event of its own
        await asyncio.sleep(0)


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    """What the plugins did; hooks that were left behind are let go at the end."""
    log = Log()
    yield log
    log.release.set()
    await asyncio.sleep(0)


def states(app: Application) -> dict[str, State]:
    """Return the live states; they are checked to be the fold of the journal."""
    live = {name: managed.state for name, managed in app.plugins.items()}
    folded = replay(app.journal.entries())
    assert live == {name: folded.get(name, State.UNLOADED) for name in live}
    return live


def five(log: Log, broken: int = 0, **faults: str) -> list[Part]:
    """Return five plugins, each requiring the one before it; number *broken* has the faults."""
    return [
        Part(log, f"p{n}", *([f"p{n - 1}"] if n > 1 else []), **(faults if n == broken else {}))
        for n in range(1, 6)
    ]


async def test_plugins_move_in_dependency_order_and_back_in_reverse(log: Log) -> None:
    """Everything loads, then starts, in dependency order; stop and unload are the mirror image."""
    async with Application(reversed(five(log))) as app:
        assert set(states(app).values()) == {State.STARTED}
    assert log.calls == [
        f"p{n} {hook}"
        for hook, order in (
            ("load", range(1, 6)),
            ("start", range(1, 6)),
            ("stop", range(5, 0, -1)),
            ("unload", range(5, 0, -1)),
        )
        for n in order
    ]
    assert set(states(app).values()) == {State.UNLOADED}
    assert log.held == []


@pytest.mark.parametrize("way", ["raise", "hang", "cancel"])
@pytest.mark.parametrize("hook", ["load", "start"])
@pytest.mark.parametrize("broken", [1, 2, 3, 4, 5])
async def test_failed_start_takes_everything_back(
    log: Log, broken: int, hook: str, way: str
) -> None:
    """When a plugin fails on the way up, what had moved goes back in reverse; nothing is held."""
    app = Application(five(log, broken, **{hook: way}))
    with pytest.raises(PluginFailedError) as caught:
        await app.start()
    kind = {"raise": RuntimeError, "hang": HookTimeoutError, "cancel": asyncio.CancelledError}[way]
    assert (caught.value.plugin, caught.value.hook) == (f"p{broken}", hook)
    assert isinstance(caught.value.__cause__, kind)
    assert log.held == []
    before = range(1, broken)
    loaded = before if hook == "load" else range(1, 6)
    started = before if hook == "start" else []
    ups = [f"p{n} load" for n in loaded] + [f"p{n} start" for n in started]
    downs = [f"p{n} stop" for n in reversed(started)]
    downs += [f"p{n} unload" for n in reversed(loaded) if n != broken]
    # The failed one is given back at once, before the others.
    own = [f"p{broken} {hook}"] + ([f"p{broken} unload"] if hook == "start" else [])
    assert log.calls == ups + own + downs
    expected = {f"p{n}": State.UNLOADED for n in range(1, 6)} | {f"p{broken}": State.FAILED}
    assert states(app) == expected
    assert app.services.names() == ()
    await app.unload()
    assert set(states(app).values()) == {State.UNLOADED}


async def test_start_works_again_after_a_failure(log: Log) -> None:
    """A failed plugin is cleared and started by the next start."""
    parts = five(log, 3, start="raise")
    app = Application(parts)
    with pytest.raises(PluginFailedError):
        await app.start()
    parts[2].faults.clear()
    await app.start()
    assert set(states(app).values()) == {State.STARTED}
    await app.unload()


async def test_failure_names_what_went_wrong_in_cleaning_up(log: Log) -> None:
    """The hook's error is raised; errors of the clean-up are notes on it and in plugin.failed."""
    part = Part(log, "p", start="raise", unload="raise")
    app = Application([part])
    with pytest.raises(PluginFailedError, match="plugin 'p' failed in start") as caught:
        await app.start()
    assert caught.value.__notes__ == ["while giving back: RuntimeError: p broke"]
    (failed,) = (e.event for e in app.journal.entries() if isinstance(e.event, PluginFailed))
    assert failed.cleanup_errors[0].startswith(f"RuntimeError: raised in {__name__}:")
    assert failed.as_dict()["hook"] == "start"


async def test_stop_errors_come_in_one_group(log: Log) -> None:
    """Every plugin's stop is tried; what failed comes back together."""
    parts = five(log)
    parts[1].faults["stop"] = "raise"
    parts[3].faults["stop"] = "cancel"
    app = Application(parts)
    await app.start()
    with pytest.raises(ExceptionGroup) as caught:
        await app.stop()
    failures = [e for e in caught.value.exceptions if isinstance(e, PluginFailedError)]
    assert [(e.plugin, e.hook) for e in failures] == [("p4", "stop"), ("p2", "stop")]
    assert [call for call in log.calls if "stop" in call] == [f"p{n} stop" for n in range(5, 0, -1)]
    # Who requires a failed plugin is unloaded with it: what it had from there is gone.
    assert states(app) == {
        "p1": State.STOPPED,
        "p2": State.FAILED,
        "p3": State.UNLOADED,
        "p4": State.FAILED,
        "p5": State.UNLOADED,
    }
    assert log.held == ["p1 load"]
    await app.unload()
    assert log.held == []


async def test_hanging_stop_costs_its_deadline_and_is_named(log: Log) -> None:
    """A stop hook that eats its cancellation is left behind; the others are stopped."""
    parts = five(log, 3, stop="stubborn")
    parts[2].stop_timeout = 0.02
    app = Application(parts)
    await app.start()
    with pytest.raises(ExceptionGroup) as caught:
        await app.unload()
    (failure,) = caught.value.exceptions
    assert isinstance(failure, PluginFailedError)
    assert isinstance(failure.error, HookTimeoutError)
    assert failure.error.abandoned
    assert str(failure) == (
        "plugin 'p3' failed in stop: HookTimeoutError: did not end within 0.02 s "
        "and ignored its cancellation"
    )
    assert set(states(app).values()) == {State.UNLOADED}
    assert log.held == []


@pytest.mark.parametrize("seed", range(5))
async def test_concurrent_commands_call_each_hook_once_per_life(log: Log, seed: int) -> None:
    """Fifty commands at once: no hook runs twice in one life, and no transition is illegal."""
    app = Application(five(log))
    choice = random.Random(seed)
    commands = [choice.choice([app.start, app.stop, app.restart]) for _ in range(50)]
    await asyncio.gather(*(command() for command in commands))
    await app.unload()
    assert log.held == []
    assert set(states(app).values()) == {State.UNLOADED}
    for n in range(1, 6):
        hooks = [call.split()[1] for call in log.calls if call.startswith(f"p{n} ")]
        assert hooks[0] == "load"
        assert hooks[-1] == "unload"
        assert hooks[1:-1] == ["start", "stop"] * (len(hooks) // 2 - 1)


async def test_commands_that_have_nothing_to_do_do_nothing(log: Log) -> None:
    """A second start, stop or unload calls no hook and records no event."""
    app = Application([Part(log, "p")])
    await app.stop()
    await app.unload()
    assert list(app.journal.entries()) == []
    await app.start()
    await app.start()
    await app.load()
    await app.stop()
    await app.stop()
    await app.unload()
    await app.unload()
    assert log.calls == ["p load", "p start", "p stop", "p unload"]
    assert [entry.event.topic for entry in app.journal.entries()] == [
        "plugin.loading",
        "service.provided",
        "plugin.loaded",
        "plugin.starting",
        "plugin.started",
        "app.started",
        "app.stopping",
        "plugin.stopping",
        "plugin.stopped",
        "app.stopped",
        "plugin.unloading",
        "service.withdrawn",
        "plugin.unloaded",
    ]


@pytest.mark.parametrize("hook", ["load", "start"])
@pytest.mark.parametrize("way", ["hang", "stubborn"])
async def test_cancelled_start_is_unwound(log: Log, hook: str, way: str) -> None:
    """When the caller of start is cancelled, everything goes back, and it stays cancelled."""
    parts = five(log, 3, **{hook: way})
    parts[2].load_timeout = parts[2].start_timeout = 30
    app = Application(parts)
    starting = asyncio.create_task(app.start())
    await until(lambda: f"p3 {hook}" in log.calls)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert log.held == []
    assert states(app) == {f"p{n}": State.UNLOADED for n in (1, 2, 4, 5)} | {"p3": State.FAILED}
    assert "p4 start" not in log.calls


async def test_cancelled_stop_runs_to_its_end(log: Log) -> None:
    """When the caller of stop is cancelled, the stop goes on, and it stays cancelled."""
    app = Application(five(log))
    await app.start()
    stopping = asyncio.create_task(app.unload())
    await until(lambda: "p3 stop" in log.calls)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert set(states(app).values()) == {State.UNLOADED}
    assert log.held == []


async def test_one_plugin_moves_with_those_it_depends_on(log: Log) -> None:
    """Start of one starts what it requires; stop of one stops what requires it."""
    app = Application([*five(log), Part(log, "other")])
    await app.start("p2")
    assert log.calls == ["p1 load", "p2 load", "p1 start", "p2 start"]
    await app.start()
    log.calls.clear()
    await app.stop("p4")
    assert log.calls == ["p5 stop", "p4 stop"]
    await app.unload("p5")
    assert states(app)["p5"] is State.UNLOADED
    assert states(app)["p4"] is State.STOPPED
    with pytest.raises(WiringError, match=r"^there is no plugin 'p44' \(did you mean 'p4'\?\); "):
        await app.start("p44")
    await app.unload()


async def test_restart_starts_again_what_was_started(log: Log) -> None:
    """Restart of one stops what requires it and starts it again, in order."""
    app = Application(five(log))
    await app.start("p4")
    log.calls.clear()
    await app.restart("p3")
    assert log.calls == ["p4 stop", "p3 stop", "p3 start", "p4 start"]
    assert states(app)["p5"] is State.UNLOADED
    await app.restart()
    assert set(states(app).values()) == {State.STARTED}
    await app.unload()


async def test_restart_goes_on_after_a_failed_stop(log: Log) -> None:
    """A plugin whose stop fails is started again; the failure is still raised."""
    app = Application(five(log, 2, stop="raise"))
    await app.start()
    with pytest.raises(ExceptionGroup, match="not without errors"):
        await app.restart("p2")
    assert set(states(app).values()) == {State.STARTED}
    with pytest.raises(ExceptionGroup):
        await app.unload()


async def test_error_of_the_block_is_not_hidden(log: Log) -> None:
    """What the `async with` block raised reaches the caller, with the unload errors as notes."""
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with Application([Part(log, "p", unload="raise")]):
            raise error
    assert caught.value is error
    assert error.__notes__ == [
        "while unloading: PluginFailedError: plugin 'p' failed in unload: RuntimeError: p broke"
    ]


async def test_failed_start_of_a_block_ends_the_run(log: Log) -> None:
    """When `async with` cannot start, everything is unloaded and the failure is the caller's."""
    app = Application(five(log, 5, start="raise"))
    with pytest.raises(PluginFailedError, match="plugin 'p5' failed in start"):
        async with app:
            pytest.fail("the block was entered")
    assert set(states(app).values()) == {State.UNLOADED}
    assert list(app.journal.entries())[-1].event.topic == "plugin.unloaded"


async def test_command_cancelled_while_it_waits_does_nothing(log: Log) -> None:
    """A start that is cancelled while another command runs never begins."""
    app = Application([Part(log, "p"), Part(log, "q")])
    first = asyncio.create_task(app.start("p"))
    second = asyncio.create_task(app.start("q"))
    await until(lambda: "p load" in log.calls)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    await first
    assert states(app) == {"p": State.STARTED, "q": State.UNLOADED}
    assert "q load" not in log.calls
    await app.unload()


def test_loop_that_ends_takes_everything_back() -> None:
    """When the program's main function ends during an unload, nothing is left behind."""
    log = Log()
    app = Application(five(log))

    async def main() -> None:
        await app.start()
        unloading = asyncio.create_task(app.unload())
        await until(lambda: "p3 stop" in log.calls)
        assert not unloading.done()

    asyncio.run(main())
    assert log.held == []
    assert {managed.state for managed in app.plugins.values()} == {State.UNLOADED}
