"""The order in which plugins move, what a failure takes back, where a run begins and ends."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

import msgspec

from lifecycle.error_text import tell, tell_text, textless
from lifecycle.errors import PluginFailedError
from lifecycle.events import AppStarted, AppStopped, AppStopping
from lifecycle.plugins.machine import State
from lifecycle.plugins.managed import ManagedPlugin
from lifecycle.plugins.recorder import Recorder
from lifecycle.tasks import Interrupt, cancellations_told

_log = logging.getLogger("lifecycle")

#: Seconds that subscribers are given, after everything has unloaded, for what is in their queues.
DRAIN_BUS = 1.0

_IDLE = (State.UNLOADED, State.FAILED)
_OPEN = (State.LOADED, State.STOPPED)

Closer = Callable[[], Awaitable[None] | None]


class _Moved(msgspec.Struct):
    """The plugins that one command has moved up so far, in order."""

    loaded: list[ManagedPlugin] = []
    started: list[ManagedPlugin] = []


class Conductor:
    """Moves several plugins; its callers make sure that it does one thing at a time.

    Args:
        plugins: By name, each after what it requires.
        needs: For each plugin everything it requires, directly or not.
        recorder: Makes the facts.
        observers: Called when a run begins; what they return is called when it ends.
    """

    def __init__(
        self,
        plugins: Mapping[str, ManagedPlugin],
        needs: Mapping[str, set[str]],
        recorder: Recorder,
        observers: Iterable[Callable[[], Closer]],
    ) -> None:
        self._plugins = plugins
        self._order = tuple(plugins.values())
        self._needs = needs
        self._recorder = recorder
        self._observers = tuple(observers)
        self._closers: list[Closer] = []
        # app.started was recorded, and no app.stopping since.
        self._announced = False

    async def up(self, names: set[str], interrupt: Interrupt, *, start: bool) -> None:
        """Load plugins, and start them; take back what this call did when one fails.

        Args:
            names: The plugins, with everything they require.
            interrupt: Asked between the hooks, and ends the one that runs.
            start: False to load only.

        Raises:
            PluginFailedError: A hook failed; its notes say what went wrong in taking back.
            JournalError: The journal takes no event.
        """
        begun = _now()
        targets = [m for m in self._order if m.name in names]
        everything = start and len(targets) == len(self._plugins)
        wanted = (State.STARTED,) if start else (*_OPEN, State.STARTED)
        if all(m.state in wanted for m in targets) and (self._announced or not everything):
            return
        interrupt.check()
        await self._open_run()
        async with self._taken_back_on_failure(interrupt) as moved:
            await self._load(targets, moved, interrupt)
            if start:
                await self._start(targets, moved, interrupt)
            interrupt.check()
            if everything:
                self._announce(begun)

    async def down(self, names: set[str], *, unload: bool) -> None:
        """Stop plugins, and unload them; each one is tried.

        Args:
            names: The plugins, with everything that requires them.
            unload: False to stop only.

        Raises:
            ExceptionGroup: What failed.
        """
        targets = [m for m in self._order if m.name in names]
        running = [m for m in targets if m.state is State.STARTED]
        everything = len(targets) == len(self._plugins)
        if everything and (running or self._announced):
            errors = await self._stop_application(running)
        else:
            errors = await self._take_back(running, [])
        if unload:
            errors += await self._take_back([], targets)
            for managed in targets:
                if managed.state is State.FAILED:
                    await managed.unload()
            if everything:
                errors += await self._close_run()
        broken = self._recorder.take_error()
        if broken is not None:
            errors.append(broken)
        if errors:
            what = "unload" if unload else "stop"
            raise ExceptionGroup(f"{what} went through, but not without errors", errors)

    async def restart(self, down: set[str], up: set[str], interrupt: Interrupt) -> None:
        """Stop plugins, then start them and what else was started of them.

        Args:
            down: The plugins to stop, with everything that requires them.
            up: The plugins to start in any case, with everything they require.
            interrupt: Ends the start.

        Raises:
            ExceptionGroup: What failed in the stop; the start was done nevertheless.
            PluginFailedError: What failed in the start; its notes say what failed in the stop.
        """
        again = up | {name for name in down if self._plugins[name].state is State.STARTED}
        failure: ExceptionGroup[Exception] | None = None
        try:
            await self.down(down, unload=False)
        except ExceptionGroup as error:
            failure = error
        try:
            await self.up(again, interrupt, start=True)
        except BaseException as error:
            for each in failure.exceptions if failure is not None else ():
                error.add_note(f"before that, in stop: {tell_text(each)}")
            raise
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def _taken_back_on_failure(self, interrupt: Interrupt) -> AsyncIterator[_Moved]:
        """Yield what notes the plugins that move; when the block raises, they move back.

        Raises:
            CancelledError: The command was interrupted, whatever the interrupted hook raised.
        """
        moved = _Moved()
        try:
            yield moved
        except BaseException as error:
            for each in await self._take_back(moved.started, moved.loaded):
                error.add_note(f"while taking back: {tell_text(each)}")
            if interrupt.requested.done() and not isinstance(error, asyncio.CancelledError):
                raise asyncio.CancelledError from error
            raise

    async def _load(
        self, targets: list[ManagedPlugin], moved: _Moved, interrupt: Interrupt
    ) -> None:
        for managed in targets:
            interrupt.check()
            if managed.state in _IDLE:
                await managed.load(interrupt)
                moved.loaded.append(managed)

    async def _start(
        self, targets: list[ManagedPlugin], moved: _Moved, interrupt: Interrupt
    ) -> None:
        for managed in targets:
            interrupt.check()
            if managed.state in _OPEN:
                await managed.start(interrupt)
                moved.started.append(managed)

    def _announce(self, begun: float) -> None:
        event = AppStarted(plugins=tuple(self._plugins), duration=_now() - begun)
        self._recorder.record(event)
        self._announced = True

    async def _stop_application(self, running: list[ManagedPlugin]) -> list[Exception]:
        begun = _now()
        self._announced = False
        self._recorder.record(AppStopping(), must=False)
        errors = await self._take_back(running, [])
        texts = tuple(tell(error) for error in errors)
        self._recorder.record(AppStopped(errors=texts, duration=_now() - begun), must=False)
        return errors

    async def _take_back(
        self, started: list[ManagedPlugin], loaded: list[ManagedPlugin]
    ) -> list[Exception]:
        """Stop *started*, unload *loaded*, and what requires a plugin that is gone by now."""
        errors: list[Exception] = []
        for managed in reversed(started):
            try:
                await managed.stop()
            except PluginFailedError as error:
                errors.append(error)
        wanted = {managed.name for managed in loaded}
        gone = {managed.name for managed in self._order if managed.state in _IDLE}
        for managed in reversed(self._order):
            orphan = not gone.isdisjoint(self._needs[managed.name])
            if managed.state in _OPEN and (orphan or managed.name in wanted):
                try:
                    await managed.unload()
                except PluginFailedError as error:
                    errors.append(error)
        return errors

    async def _open_run(self) -> None:
        if self._recorder.is_open:
            return
        try:
            for observer in self._observers:
                self._closers.append(observer())
            self._recorder.open()
        except BaseException:
            await self._close_run()
            raise

    async def _close_run(self) -> list[Exception]:
        """End the run: subscribers catch up, observers leave, the journal is closed."""
        errors: list[Exception] = []
        self._announced = False
        if not self._recorder.is_open and not self._closers:
            return errors
        if not await self._recorder.bus.drain(DRAIN_BUS):
            _log.warning("subscribers did not catch up within %g s", DRAIN_BUS)
        while self._closers:
            try:
                pending = self._closers.pop()()
                if inspect.isawaitable(pending):
                    with cancellations_told("an observer"):
                        await pending
            except Exception as error:  # noqa: BLE001 -- an observer does not change how a run ends
                _log.warning("an observer did not end well", exc_info=textless(error))
        try:
            await self._recorder.close()
        except Exception as error:  # noqa: BLE001 -- raised with what failed before
            errors.append(error)
        return errors


def _now() -> float:
    return asyncio.get_running_loop().time()
