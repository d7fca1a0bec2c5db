"""Plugins that fail, hang or are commanded by many at once: L1, L2 and L4."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import product

import pytest

from lifecycle import Application, Plugin, PluginContext, PluginFailedError, State, replay

Row = Callable[..., None]

PLUGINS = 5
WAYS = ("raise", "hang", "cancel")
STUBBORN_DEADLINE = 0.3


class Part(Plugin):
    """A plugin that takes something in each opening hook, and fails where it is told to."""

    load_timeout = start_timeout = 0.1

    def __init__(self, number: int, held: set[str], fault: tuple[str, str] = ("", "")) -> None:
        self.name = f"p{number}"
        self.requires = (f"p{number - 1}",) if number > 1 else ()
        self.held = held
        self.fault = fault
        self.calls: list[str] = []
        self.release = asyncio.Event()

    @asynccontextmanager
    async def _resource(self, hook: str) -> AsyncIterator[None]:
        self.held.add(f"{self.name} {hook}")
        try:
            yield
        finally:
            self.held.remove(f"{self.name} {hook}")

    async def _act(self, hook: str) -> None:
        self.calls.append(hook)
        if self.fault[0] != hook:
            return
        match self.fault[1]:
            case "raise":
                raise ValueError(self.name)
            case "cancel":
                raise asyncio.CancelledError
            case "hang":
                await self.release.wait()
            case "stubborn":
                while not self.release.is_set():
                    with suppress(asyncio.CancelledError):
                        await self.release.wait()

    async def load(self, context: PluginContext) -> None:
        """Take the first thing."""
        await context.enter(self._resource("load"))
        await self._act("load")

    async def start(self, context: PluginContext) -> None:
        """Take the second thing."""
        await context.enter(self._resource("start"))
        await self._act("start")

    async def stop(self, context: PluginContext) -> None:
        """Say so."""
        del context
        await self._act("stop")


@pytest.mark.parametrize(
    ("hook", "way", "k"), list(product(["load", "start"], WAYS, range(1, PLUGINS + 1)))
)
async def test_a_failed_start_takes_everything_back(hook: str, way: str, k: int, row: Row) -> None:
    """L1: when the k-th of five plugins fails, nothing stays held, and a second start works."""
    held: set[str] = set()
    parts = [Part(n, held, (hook, way) if n == k else ("", "")) for n in range(1, PLUGINS + 1)]
    app = Application(parts)
    with pytest.raises((PluginFailedError, asyncio.CancelledError)) as caught:
        await app.start()
    assert held == set()
    if isinstance(caught.value, PluginFailedError):
        assert (caught.value.plugin, caught.value.hook) == (f"p{k}", hook)
    stopped = [part.name for part in parts if "stop" in part.calls]
    assert stopped == [f"p{n}" for n in range(1, k if hook == "start" else 1)]
    parts[k - 1].fault = ("", "")
    await app.start()
    assert {managed.state for managed in app.plugins.values()} == {State.STARTED}
    assert len(held) == 2 * PLUGINS
    await app.unload()
    assert held == set()
    replay(app.journal.entries())
    if (hook, way, k) == ("start", "cancel", PLUGINS):
        row(
            "L1", load="the k-th of 5 fails: load, start × 3 ways × k = 1…5", result="0 held, 30/30"
        )


async def test_a_stubborn_stop_costs_its_deadline(row: Row) -> None:
    """L2: a stop hook that eats its cancellation is named; the others are stopped meanwhile."""
    held: set[str] = set()
    parts = [Part(n, held, ("stop", "stubborn") if n == 3 else ("", "")) for n in range(1, 6)]
    parts[2].stop_timeout = STUBBORN_DEADLINE
    app = Application(parts)
    await app.start()
    begun = time.perf_counter()
    with pytest.raises(ExceptionGroup) as caught:
        await app.unload()
    seconds = time.perf_counter() - begun
    [error] = caught.value.exceptions
    assert "plugin 'p3' failed in stop" in str(error)
    assert all("stop" in part.calls for part in parts)
    assert held == set()
    assert seconds <= STUBBORN_DEADLINE + 1
    parts[2].release.set()
    row(
        "L2",
        load=f"the third of five ignores the cancellation of its stop ({STUBBORN_DEADLINE} s)",
        result=f"named, the others stopped, 0 held, {seconds:.2f} s",
    )


async def test_many_commands_at_once(full: bool, row: Row) -> None:
    """L4: under 50 concurrent commands each hook runs once per life, no transition is illegal."""
    schedules = 200 if full else 20
    for seed in range(schedules):
        chance = random.Random(seed)
        held: set[str] = set()
        parts = [Part(n, held) for n in range(1, 4)]
        app = Application(parts)

        async def command(app: Application = app, chance: random.Random = chance) -> None:
            for _ in range(chance.randint(0, 3)):
                await asyncio.sleep(0)
            await chance.choice([app.start, app.stop, app.restart])()

        await asyncio.gather(*(command() for _ in range(50)))
        await app.unload()
        for part in parts:
            lives = [call for call in part.calls if call != "load"]
            assert lives == ["start", "stop"] * (len(lives) // 2), part.calls
        assert held == set()
        assert set(replay(app.journal.entries()).values()) == {State.UNLOADED}
    row("L4", load=f"50 commands at once, {schedules} schedules", result="each hook once per life")
