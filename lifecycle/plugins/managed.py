"""Moves one plugin through its hooks; what it holds is exactly what its state says."""

import asyncio
from typing import Any, Final, NoReturn

import msgspec

from lifecycle.correlation import correlate
from lifecycle.error_text import tell, tell_text
from lifecycle.errors import PluginFailedError
from lifecycle.events import (
    Hook,
    PluginDegraded,
    PluginEvent,
    PluginFailed,
    PluginLoaded,
    PluginLoading,
    PluginRecovered,
    PluginStarted,
    PluginStarting,
    PluginStopped,
    PluginStopping,
    PluginUnloaded,
    PluginUnloading,
)
from lifecycle.plugins.context import PluginContext, Probe
from lifecycle.plugins.machine import PluginFold, State
from lifecycle.plugins.plugin import Health, Plugin
from lifecycle.plugins.recorder import Recorder
from lifecycle.plugins.services import ServiceRegistry
from lifecycle.printable import without_token
from lifecycle.tasks import Interrupt, call, cancellations_told

#: Hooks that deal with files and servers, and with no update: the text of their errors is told.
_OPENING: Final = ("load", "start")


class _Scope(msgspec.Struct, gc=False):
    """What one opening hook took, and how it is given back.

    Args:
        context: What holds it.
        closing: The hook that is called first.
        deadline: Seconds for that hook and for giving back.
        opened: The opening hook succeeded, so the closing one is called.
    """

    context: PluginContext
    closing: Hook
    deadline: float
    opened: bool = False


class ManagedPlugin:
    """A plugin and its place in the application.

    Args:
        plugin: The plugin.
        config: Its checked configuration.
        deadlines: Seconds for its stop and for its unload.
        services: Of the application.
        probes: Of the application.
        recorder: Of the application.
    """

    def __init__(
        self,
        plugin: Plugin,
        *,
        config: Any,
        deadlines: tuple[float, float],
        services: ServiceRegistry,
        probes: dict[str, Probe],
        recorder: Recorder,
    ) -> None:
        self.plugin = plugin
        self.name = plugin.name
        self.config = config
        self.stop_deadline, self.unload_deadline = deadlines
        self.services = services
        self.probes = probes
        self.recorder = recorder
        self._fold = PluginFold()
        self._scopes: list[_Scope] = []
        self._degraded_at = 0.0
        self._lost_early: str | None = None

    @property
    def state(self) -> State:
        """The fold of the plugin's events."""
        return self._fold.state

    @property
    def is_degraded(self) -> bool:
        """Whether the started plugin lost something it needs."""
        return self._fold.degraded

    @property
    def context(self) -> PluginContext | None:
        """The innermost open context: start's, else load's, else none."""
        return self._scopes[-1].context if self._scopes else None

    async def load(self, interrupt: Interrupt) -> None:
        """Run the load hook; a failed plugin is cleared before.

        Raises:
            PluginFailedError: It failed; the plugin holds nothing.
        """
        if self.state is State.FAILED:
            await self.unload()
        self._record(PluginLoading(plugin=self.name))
        begun = _now()
        scope = self._open("unload", self.unload_deadline)
        try:
            await self._call("load", scope.context, self.plugin.load_timeout, interrupt)
            scope.opened = True
            self._record(PluginLoaded(plugin=self.name, duration=_now() - begun))
        except BaseException as error:  # noqa: BLE001 -- raised again by _fail, as the cause
            await self._fail("load", begun, [error])

    async def start(self, interrupt: Interrupt) -> None:
        """Run the start hook.

        Raises:
            PluginFailedError: It failed; the plugin holds nothing.
        """
        self._record(PluginStarting(plugin=self.name))
        begun = _now()
        scope = self._open("stop", self.stop_deadline)
        try:
            await self._call("start", scope.context, self.plugin.start_timeout, interrupt)
            scope.opened = True
            self._record(PluginStarted(plugin=self.name, duration=_now() - begun))
        except BaseException as error:  # noqa: BLE001 -- raised again by _fail, as the cause
            await self._fail("start", begun, [error])
        if self._lost_early is not None:
            self.degraded(self._lost_early)

    async def stop(self) -> None:
        """Run the stop hook and give back what start took.

        Raises:
            PluginFailedError: Something of it failed; the plugin holds nothing.
        """
        self._record(PluginStopping(plugin=self.name), must=False)
        begun = _now()
        errors = await self._give_back()
        if errors:
            await self._fail("stop", begun, errors)
        self._record(PluginStopped(plugin=self.name, duration=_now() - begun), must=False)

    async def unload(self) -> None:
        """Run the unload hook and give back what load took; a failed plugin is only cleared.

        Raises:
            PluginFailedError: Something of it failed; the plugin holds nothing.
        """
        self._record(PluginUnloading(plugin=self.name), must=False)
        begun = _now()
        errors = await self._give_back()
        if errors:
            await self._fail("unload", begun, errors)
        self._lost_early = None
        self._record(PluginUnloaded(plugin=self.name, duration=_now() - begun), must=False)

    def degraded(self, reason: str) -> None:
        """Report that the plugin lost something; before it is started, as soon as it is."""
        reason = without_token(reason)  # it may hold the text of an error
        if self.state is State.STARTED:
            self._lost_early = None
            if not self.is_degraded:
                self._degraded_at = _now()
            self._record(PluginDegraded(plugin=self.name, reason=reason), must=False)
        elif self.state not in (State.STOPPING, State.UNLOADING):
            self._lost_early = reason

    def recovered(self) -> None:
        """Report that the plugin has again what it lost."""
        self._lost_early = None
        if self.is_degraded:
            duration = _now() - self._degraded_at
            self._record(PluginRecovered(plugin=self.name, duration=duration), must=False)

    async def health(self, limit: float) -> Health:
        """Return what the started plugin says about itself.

        Args:
            limit: Seconds it may take.
        """
        context = self.context
        if self.state is not State.STARTED or context is None:
            return Health(healthy=False, error=f"is {self.state}")
        begun = _now()
        try:
            with correlate(plugin=self.name), cancellations_told("the check"):
                details = await call(self.plugin.health(context), limit)
        except Exception as error:  # noqa: BLE001 -- the answer, not a fault of ours
            return Health(healthy=False, error=tell_text(error), duration=_now() - begun)
        return Health(
            healthy=not self.is_degraded,
            error="is degraded" if self.is_degraded else "",
            details=details or {},
            duration=_now() - begun,
        )

    def _record(self, event: PluginEvent, *, must: bool = True) -> None:
        self.recorder.record(event, self._fold.apply, must=must)

    def _open(self, closing: Hook, deadline: float) -> _Scope:
        scope = _Scope(PluginContext(self), closing, deadline)
        self._scopes.append(scope)
        return scope

    async def _call(
        self,
        hook: Hook,
        context: PluginContext,
        deadline: float,
        interrupt: Interrupt | None = None,
    ) -> None:
        method = getattr(self.plugin, hook)
        if getattr(method, "__func__", None) is getattr(Plugin, hook):
            return  # not written: nothing to wait for
        with correlate(plugin=self.name):
            await call(method(context), deadline, interrupt)

    async def _give_back(self) -> list[BaseException]:
        """Close the innermost scope, when there is one, and return what went wrong."""
        if not self._scopes:
            return []
        scope = self._scopes.pop()
        time_over = _now() + scope.deadline
        errors: list[BaseException] = []
        if scope.opened:
            try:
                await self._call(scope.closing, scope.context, scope.deadline)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 -- returned
                errors.append(error)
        with correlate(plugin=self.name):
            return errors + await scope.context.close(time_over - _now())

    async def _fail(self, hook: Hook, begun: float, errors: list[BaseException]) -> NoReturn:
        """Give everything back, record the failure, and raise it."""
        while self._scopes:
            errors += await self._give_back()
        error, *cleanup = errors
        self._lost_early = None
        self._record(
            PluginFailed(
                plugin=self.name,
                hook=hook,
                error=tell_text(error) if hook in _OPENING else tell(error),
                cleanup_errors=tuple(tell(each) for each in cleanup),
                duration=_now() - begun,
            ),
            must=False,
        )
        failure = PluginFailedError(self.name, hook, error)
        for each in cleanup:
            failure.add_note(f"while giving back: {tell_text(each)}")
        raise failure from error

    def __repr__(self) -> str:
        return f"<ManagedPlugin {self.name!r} {self.state}>"


def _now() -> float:
    return asyncio.get_running_loop().time()
