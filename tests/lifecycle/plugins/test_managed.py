"""One plugin: what its hooks may do, what it says about itself."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from lifecycle import (
    Application,
    LifecycleError,
    Plugin,
    PluginContext,
    PluginFailed,
    PluginFailedError,
    State,
)


class Named(Plugin):
    """A plugin with a name."""

    def __init__(self, name: str) -> None:
        self.name = name


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until *condition* holds."""
    while not condition():  # noqa: ASYNC110 -- what is awaited has no event of its own
        await asyncio.sleep(0)


async def test_command_from_inside_a_hook_is_refused() -> None:
    """A hook that waits for a command of its own application would wait for itself."""

    class Selfish(Plugin):
        name = "selfish"
        app: Application

        async def start(self, context: PluginContext) -> None:
            """Command the application."""
            del context
            await self.app.stop()

    plugin = Selfish()
    plugin.app = Application([plugin])
    with pytest.raises(PluginFailedError, match="from inside a hook") as caught:
        await plugin.app.start()
    assert isinstance(caught.value.error, LifecycleError)


async def test_task_of_a_plugin_may_stop_the_application() -> None:
    """A background task can give the command that ends it."""

    class Watchdog(Plugin):
        name = "watchdog"
        app: Application

        async def start(self, context: PluginContext) -> None:
            """Watch."""
            context.spawn(self.bark())

        async def bark(self) -> None:
            """Stop everything, this task too."""
            await self.app.unload()

    plugin = Watchdog()
    plugin.app = app = Application([plugin])
    await app.start()
    await until(lambda: app.plugins["watchdog"].state is State.UNLOADED)
    topics = [entry.event.topic for entry in app.journal.entries()]
    assert "plugin.failed" not in topics


async def test_hook_and_its_events_are_correlated_with_the_plugin() -> None:
    """Whatever a hook publishes says which plugin it comes from."""

    class Speaker(Named):
        async def start(self, context: PluginContext) -> None:
            """Say something."""
            context.publish(PluginFailed(plugin="?", hook="load", error="", duration=0))

    app = Application([Speaker("p")])
    seen: list[Any] = []
    app.bus.subscribe("plugin.failed", seen.append)
    await app.start()
    assert seen[0].correlation.plugin == "p"
    await app.unload()


async def test_no_fact_about_a_plugin_has_the_token_of_a_bot() -> None:
    """Neither what it lost, nor why it is unhealthy or failed: errors of clients name addresses."""
    text = f"no answer of https://api.telegram.org/bot123456789:AA{'x' * 33}/getMe"

    class Caller(Named):
        async def load(self, context: PluginContext) -> None:
            """Fail once it was loaded."""
            if context.name == "broken":
                raise RuntimeError(text)

        async def start(self, context: PluginContext) -> None:
            """Lose something."""
            context.degraded(text)

        async def health(self, context: PluginContext) -> dict[str, Any]:
            """Fail."""
            del context
            raise RuntimeError(text)

    app = Application([Caller("p"), Caller("broken")])
    await app.start("p")
    said = [str((await app.health())["p"].error)]
    with pytest.raises(PluginFailedError):
        await app.load("broken")
    said += [str(entry.event.as_dict()) for entry in app.journal.entries()]
    await app.unload()
    assert sum("bot123456789:***" in each for each in said) == 3
    assert not any("xxx" in each for each in said)


async def test_health_asks_every_plugin_within_its_limit() -> None:
    """A check that hangs or raises makes its plugin unhealthy, and says why."""

    class Sick(Named):
        async def health(self, context: PluginContext) -> dict[str, Any]:
            """Be well, raise or hang, by name."""
            del context
            if self.name == "raises":
                raise RuntimeError("no pulse")
            if self.name == "cancels":
                raise asyncio.CancelledError
            if self.name == "hangs":
                await asyncio.Event().wait()
            return {"pulse": 60}

    app = Application([Sick(name) for name in ("well", "raises", "cancels", "hangs")])
    assert (await app.health())["well"].error == "is unloaded"
    async with app:
        health = await app.health(timeout=0.01)
    assert {name: each.healthy for name, each in health.items()} == {
        "well": True,
        "raises": False,
        "cancels": False,
        "hangs": False,
    }
    assert health["well"].details == {"pulse": 60}
    assert health["raises"].error == "RuntimeError: no pulse"
    assert health["cancels"].error == (
        "LifecycleError: the check ended in CancelledError, and nobody had cancelled it"
    )
    assert health["hangs"].error == "HookTimeoutError: did not end within 0.01 s"
