"""Whatever commands, failures and cancellations come, the journal and the held things agree."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lifecycle import Application, Plugin, PluginContext, PluginFailedError, State, replay

NAMES = {"db": (), "notes": ("db",), "stats": ("db",), "admin": ("notes", "stats"), "lone": ()}
HOLDING_LOAD = (State.LOADED, State.STARTED, State.STOPPED)

names = st.sampled_from([None, *NAMES])
commands = st.sampled_from(["load", "start", "stop", "unload", "restart"])


class Part(Plugin):
    """A plugin whose every hook does what the machine below says."""

    load_timeout = start_timeout = 0.01
    stop_timeout = unload_timeout = 0.01

    def __init__(self, name: str, held: set[tuple[str, str]], faults: dict[str, str]) -> None:
        self.name = name
        self.requires = NAMES[name]
        self.held = held
        self.faults = faults

    @asynccontextmanager
    async def resource(self, hook: str) -> AsyncIterator[None]:
        """Hold something for the time of the block."""
        self.held.add((self.name, hook))
        try:
            yield
        finally:
            await asyncio.sleep(0)
            self.held.remove((self.name, hook))

    async def load(self, context: PluginContext) -> None:
        """Take a resource and a service; then act."""
        await context.enter(self.resource("load"))
        context.provide("service", self)
        await self.act("load")

    async def start(self, context: PluginContext) -> None:
        """Take another resource and a task; then act."""
        await context.enter(self.resource("start"))
        context.spawn(asyncio.Event().wait())
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
        """Do what is wanted of this hook."""
        await asyncio.sleep(0)
        match self.faults.get(f"{self.name}.{hook}"):
            case "raise":
                raise RuntimeError(hook)
            case "hang":
                await asyncio.Event().wait()
            case "cancel":
                raise asyncio.CancelledError


class Lives(RuleBasedStateMachine):
    """Drives one application at random; checks it after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.held: set[tuple[str, str]] = set()
        self.faults: dict[str, str] = {}
        self.app = self.runner.run(self.make())

    async def make(self) -> Application:
        """Make the application inside the loop."""
        return Application(
            [Part(name, self.held, self.faults) for name in NAMES],
            config={"app": {"grace": 20, "drain": 0}},
        )

    async def give(self, command: str, name: str | None, steps: int | None) -> None:
        """Give a command; cancel its caller after so many steps of the loop."""
        task = asyncio.create_task(getattr(self.app, command)(name))
        if steps is not None:
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
        try:
            await task
        except (PluginFailedError, asyncio.CancelledError):
            return
        except ExceptionGroup as group:
            assert all(isinstance(error, PluginFailedError) for error in group.exceptions)  # noqa: PT017 -- both outcomes are right

    @rule(
        plugin=st.sampled_from([*NAMES]),
        hook=st.sampled_from(["load", "start", "stop", "unload"]),
        way=st.sampled_from(["raise", "hang", "cancel"]),
    )
    def breaks(self, plugin: str, hook: str, way: str) -> None:
        """From now on one hook fails."""
        self.faults[f"{plugin}.{hook}"] = way

    @rule()
    def heals(self) -> None:
        """From now on no hook fails."""
        self.faults.clear()

    @rule(command=commands, name=names)
    def commands_one(self, command: str, name: str | None) -> None:
        """Give one command and wait for it."""
        self.runner.run(self.give(command, name, None))

    @rule(command=commands, name=names, steps=st.integers(0, 60))
    def commands_and_gives_up(self, command: str, name: str | None, steps: int) -> None:
        """Give one command and cancel its caller at some time."""
        self.runner.run(self.give(command, name, steps))

    @rule(given=st.lists(st.tuples(commands, names, st.none() | st.integers(0, 60)), max_size=4))
    def commands_several(self, given: list[tuple[str, str | None, int | None]]) -> None:
        """Give several commands at once."""

        async def together() -> None:
            await asyncio.gather(*(self.give(*each) for each in given))

        self.runner.run(together())

    @invariant()
    def journal_and_states_agree(self) -> None:
        """The journal is legal, and folding it gives the live states."""
        live = {name: managed.state for name, managed in self.app.plugins.items()}
        folded = replay(self.app.journal.entries())
        assert live == {name: folded.get(name, State.UNLOADED) for name in NAMES}

    @invariant()
    def held_is_what_the_states_say(self) -> None:
        """A loaded plugin holds what load took, a started one also what start took."""
        plugins = self.app.plugins
        loaded = [name for name in NAMES if plugins[name].state in HOLDING_LOAD]
        started = [name for name in NAMES if plugins[name].state is State.STARTED]
        expected = {(name, "load") for name in loaded} | {(name, "start") for name in started}
        assert self.held == expected
        assert set(self.app.services) == {f"{name}:service" for name in loaded}
        waiting = [task for task in asyncio.all_tasks(self.runner.get_loop()) if not task.done()]
        assert len(waiting) == len(started)

    @invariant()
    def nobody_outlives_what_it_requires(self) -> None:
        """What a loaded plugin requires is loaded, what a started one requires is started."""
        plugins = self.app.plugins
        for name, requires in NAMES.items():
            for needed in requires:
                if plugins[name].state in HOLDING_LOAD:
                    assert plugins[needed].state in HOLDING_LOAD
                if plugins[name].state is State.STARTED:
                    assert plugins[needed].state is State.STARTED

    def teardown(self) -> None:
        """Unload everything: nothing is left, whatever happened."""
        self.runner.run(self.give("unload", None, None))
        assert self.held == set()
        assert {managed.state for managed in self.app.plugins.values()} == {State.UNLOADED}
        self.runner.close()


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
