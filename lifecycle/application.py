"""The application: plugins, services, bus and journal in one place, and one command at a time."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from lifecycle import config as configuration
from lifecycle.bus import EventBus
from lifecycle.error_text import tell_text
from lifecycle.errors import LifecycleError, WiringError, nearest
from lifecycle.event import Event
from lifecycle.journal import Journal, MemoryJournal
from lifecycle.plugins import wiring
from lifecycle.plugins.conductor import Conductor
from lifecycle.plugins.context import Probe
from lifecycle.plugins.managed import ManagedPlugin
from lifecycle.plugins.plugin import Health, Plugin
from lifecycle.plugins.recorder import Recorder
from lifecycle.plugins.services import ServiceRegistry
from lifecycle.tasks import Interrupt, in_hook, in_plugin_task, log_failure, outlast


class Application:
    """Owns plugins, services, bus and journal, and moves the plugins through their lives.

    Commands run one at a time and change nothing when there is nothing to do. When the caller of
    `load`, `start` or `restart` is cancelled, the running hook is cancelled and the command takes
    back what it did; `stop` and `unload` always run to their end. A command from inside a hook is
    refused with `LifecycleError`, the name of a plugin that is not there with `WiringError`.

    A run, in the journal's sense, begins with the first command that moves a plugin and ends with
    `unload()` of everything.

    Args:
        plugins: Plugins, or classes of plugins that are made without arguments.
        config: Sections, as in config.toml.
        name: What tells this process from others with one config.toml; `[app] name` by default.
        journal: Where the facts are kept; by default what `[app] journal` says, else in memory.
        bus: Where they are published; by default a new one.
        folder: What paths in *config* are relative to; by default the working directory.

    Raises:
        WiringError: Plugins or configuration do not fit together.
    """

    def __init__(
        self,
        plugins: Iterable[Plugin | type[Plugin]],
        *,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        journal: Journal | None = None,
        bus: EventBus | None = None,
        folder: Path | None = None,
    ) -> None:
        config = config or {}
        ordered = wiring.in_order(plugins)
        settings = configuration.app_config(config, name)
        configs, observers = configuration.read_sections(config, ordered.values(), folder)
        deadlines = wiring.closing_deadlines(ordered.values(), settings.grace, settings.drain)
        self.name = settings.name
        self.grace = settings.grace
        self.drain = settings.drain
        self.services = ServiceRegistry()
        self.probes: dict[str, Probe] = {}
        self.bus = EventBus() if bus is None else bus
        if journal is None and settings.journal:
            journal = configuration.make_journal(settings, folder or Path())
        self.journal = MemoryJournal() if journal is None else journal
        self._recorder = Recorder(self.journal, self.bus)
        self.probes["journal"] = self._recorder.levels
        self.probes["journal_waiting"] = self._recorder.waiting
        self.plugins: Mapping[str, ManagedPlugin] = MappingProxyType(
            {
                name: self._managed(plugin, configs[name], deadlines[name])
                for name, plugin in ordered.items()
            }
        )
        self._needs = wiring.required_by(ordered)
        self._conductor = Conductor(
            self.plugins,
            self._needs,
            self._recorder,
            [partial(observer, self, settings) for observer, settings in observers],
        )
        self._lock = asyncio.Lock()
        # Held here, because a caller may go before its command has ended.
        self._commands: set[asyncio.Task[None]] = set()

    @classmethod
    def from_config(
        cls,
        path: str | PathLike[str] = "config.toml",
        *,
        name: str | None = None,
        plugins: Iterable[str] | None = None,
    ) -> Self:
        """Make the application that a file describes; several processes may run on one file.

        Args:
            path: The file; plugins can be imported from its folder.
            name: Name of this process, and of its journal; see `[app] name`.
            plugins: What it runs instead of `[app] plugins`.

        Raises:
            WiringError: Something in it does not fit; the text names it and the fix.
        """
        file = Path(path).absolute()
        run = configuration.read_process(file, name, plugins)
        return cls(
            run.plugins, config=run.config, name=name, journal=run.journal, folder=file.parent
        )

    async def load(self, name: str | None = None) -> None:
        """Load every plugin, or one with what it requires.

        Args:
            name: The plugin.

        Raises:
            PluginFailedError: A hook failed; what this call had moved is taken back.
            JournalError: The journal takes no event.
        """
        names = self._with_needs(name)
        await self._command(lambda interrupt: self._conductor.up(names, interrupt, start=False))

    async def start(self, name: str | None = None) -> None:
        """Start every plugin, or one with what it requires; loads what is not loaded.

        Args:
            name: The plugin.

        Raises:
            PluginFailedError: A hook failed; what this call had moved is taken back.
            JournalError: The journal takes no event.
        """
        names = self._with_needs(name)
        await self._command(lambda interrupt: self._conductor.up(names, interrupt, start=True))

    async def stop(self, name: str | None = None) -> None:
        """Stop every plugin, or one with what requires it; each one's stop is tried.

        Args:
            name: The plugin.

        Raises:
            ExceptionGroup: What failed.
        """
        names = self._with_dependents(name)
        await self._command(lambda _: self._conductor.down(names, unload=False))

    async def unload(self, name: str | None = None) -> None:
        """Stop and unload every plugin, or one with what requires it; each one is tried.

        Args:
            name: The plugin.

        Raises:
            ExceptionGroup: What failed; the plugins are unloaded nevertheless.
        """
        names = self._with_dependents(name)
        await self._command(lambda _: self._conductor.down(names, unload=True))

    async def restart(self, name: str | None = None) -> None:
        """Stop every plugin, or one with what requires it, and start again what was started.

        Args:
            name: The plugin; it is started also when it was not.

        Raises:
            ExceptionGroup: What failed in the stop; the start was done nevertheless.
            PluginFailedError: What failed in the start.
        """
        names = self._with_dependents(name)
        needs = self._with_needs(name)
        await self._command(lambda interrupt: self._conductor.restart(names, needs, interrupt))

    async def health(
        self,
        timeout: float = 2.0,  # noqa: ASYNC109 -- of each check; asyncio.timeout would end all
    ) -> dict[str, Health]:
        """Ask every plugin how it is, all at once.

        Args:
            timeout: Seconds each may take.
        """
        answers = await asyncio.gather(*(m.health(timeout) for m in self.plugins.values()))
        return dict(zip(self.plugins, answers, strict=True))

    def record(self, event: Event) -> None:
        """Append a fact about the application to the journal, when a run is open, and publish it.

        Args:
            event: The fact, as `app.drained`.
        """
        if self._recorder.is_open:
            self._recorder.record(event, must=False)
        else:
            self.bus.publish(event)

    def _managed(
        self, plugin: Plugin, config: Any, deadlines: tuple[float, float]
    ) -> ManagedPlugin:
        return ManagedPlugin(
            plugin,
            config=config,
            deadlines=deadlines,
            services=self.services,
            probes=self.probes,
            recorder=self._recorder,
        )

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException as error:
            await self.unload_after(error)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.unload()
        else:
            await self.unload_after(error)

    async def unload_after(self, error: BaseException) -> None:
        """Unload because of *error*, which must not be hidden by what goes wrong now.

        Args:
            error: Gets what goes wrong as notes.
        """
        try:
            await self.unload()
        except ExceptionGroup as group:
            for each in group.exceptions:
                error.add_note(f"while unloading: {tell_text(each)}")

    async def _command(self, work: Callable[[Interrupt], Coroutine[Any, Any, None]]) -> None:
        """Run a command in a task of its own, so that it can end when its caller cannot wait.

        Raises:
            CancelledError: The caller was cancelled, or the command was interrupted.
            LifecycleError: The caller is a hook, which the command would wait for.
        """
        if in_hook():
            raise LifecycleError(
                "a command of the application was given from inside a hook, which the command "
                "would wait for; give it from a task: context.spawn(...)"
            )
        interrupt = Interrupt()

        async def run() -> None:
            async with self._lock:
                await work(interrupt)

        task = asyncio.create_task(run())
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)
        if in_plugin_task():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                # It may be this very command that cancels the task which gave it.
                task.add_done_callback(log_failure)
                raise
        else:
            await outlast(task, interrupt.request)
        task.result()

    def _with_needs(self, name: str | None) -> set[str]:
        if name is None:
            return set(self.plugins)
        return {self._known(name), *self._needs[name]}

    def _with_dependents(self, name: str | None) -> set[str]:
        if name is None:
            return set(self.plugins)
        return {self._known(name)} | {each for each, needs in self._needs.items() if name in needs}

    def _known(self, name: str) -> str:
        if name not in self.plugins:
            raise WiringError(
                f"there is no plugin {name!r}{nearest(name, self.plugins)}; there are: "
                f"{', '.join(self.plugins) or 'none'}"
            )
        return name

    def __repr__(self) -> str:
        states = ", ".join(f"{name} {m.state}" for name, m in self.plugins.items())
        return f"<Application {states or 'without plugins'}>"
