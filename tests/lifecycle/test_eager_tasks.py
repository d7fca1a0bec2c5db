"""Under a task factory that begins a task at once, Python 3.12's, the promises are the same."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lifecycle import Application, Event, Plugin, PluginContext, PluginFailedError, State
from lifecycle.events import PluginLoading

#: Before Python 3.12 there is only the factory that begins a task in the next turn of the loop.
FACTORIES: list[Any] = [None, *filter(None, [getattr(asyncio, "eager_task_factory", None)])]
COMMANDS = ("load", "start", "stop", "unload", "restart")


@pytest.fixture(autouse=True, params=FACTORIES, ids=["lazy", "eager"][: len(FACTORIES)])
async def _factory(request: pytest.FixtureRequest) -> Any:
    """Run the test under each factory."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(request.param)
    yield
    loop.set_task_factory(before)


class Selfish(Plugin):
    """Commands its application from inside a hook, or from a task that the hook starts."""

    name = "selfish"
    app: Application

    def __init__(self, hook: str, command: str, *, wrapped: bool, spawned: bool = False) -> None:
        self.hook = hook
        self.command = command
        self.wrapped = wrapped
        self.spawned = spawned
        self.commanded = asyncio.Event()

    async def give(self) -> None:
        """Give the command."""
        if self.commanded.is_set():
            return
        self.commanded.set()
        command: Callable[[], Any] = getattr(self.app, self.command)
        # In the hook itself, or in a task that it waits for.
        await (asyncio.create_task(command()) if self.wrapped else command())

    async def at(self, hook: str, context: PluginContext) -> None:
        """Give the command when it is time."""
        if hook == self.hook and self.spawned:
            context.spawn(self.give())
        elif hook == self.hook:
            await self.give()

    async def load(self, context: PluginContext) -> None:
        """Load."""
        await self.at("load", context)

    async def start(self, context: PluginContext) -> None:
        """Start."""
        await self.at("start", context)

    async def stop(self, context: PluginContext) -> None:
        """Stop."""
        await self.at("stop", context)

    async def unload(self, context: PluginContext) -> None:
        """Unload."""
        await self.at("unload", context)


def errors(raised: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that it holds."""
    if isinstance(raised, BaseExceptionGroup):
        for each in raised.exceptions:
            yield from errors(each)
    else:
        yield raised


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("hook", ["load", "start", "stop", "unload"])
async def test_a_command_from_inside_a_hook_is_refused(
    hook: str, command: str, *, wrapped: bool
) -> None:
    """No hook may wait for a command that waits for it; that is said, and everything goes back."""
    plugin = Selfish(hook, command, wrapped=wrapped)
    plugin.app = app = Application([plugin])

    async def run() -> None:
        await app.start()
        await app.unload()

    with pytest.raises((PluginFailedError, ExceptionGroup)) as caught:
        await asyncio.wait_for(run(), 10)
    texts = [str(each) for each in errors(caught.value)]
    assert len(texts) == 1
    assert f"failed in {hook}: LifecycleError" in texts[0]
    assert "from inside a hook" in texts[0]
    await app.unload()
    assert app.plugins["selfish"].state is State.UNLOADED


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("hook", ["load", "start"])
async def test_a_task_of_a_plugin_may_give_it(hook: str, command: str) -> None:
    """A spawned task gives every command, and hangs nobody, itself included."""
    plugin = Selfish(hook, command, wrapped=False, spawned=True)
    plugin.app = app = Application([plugin])
    await asyncio.wait_for(app.start(), 10)
    await plugin.commanded.wait()
    await asyncio.wait_for(app.unload(), 10)
    assert app.plugins["selfish"].state is State.UNLOADED


async def test_an_async_subscriber_never_runs_inside_of_publish() -> None:
    """Who publishes goes on before any async handler begins."""
    app = Application([])
    seen: list[Event] = []

    async def handler(event: Event) -> None:
        seen.append(event)

    app.bus.subscribe("plugin.loading", handler)
    app.bus.publish(PluginLoading(plugin="p"))
    assert seen == []
    assert await app.bus.drain()
    assert len(seen) == 1
