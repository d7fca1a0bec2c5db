"""Runs an application and its bot by polling, until a signal or a cancellation."""

import asyncio
from functools import partial
from typing import Any

from aiogram import Bot, Dispatcher

from lifecycle.application import Application
from lifecycle.bot.dispatcher import attached
from lifecycle.bot.last_resort import LastResort
from lifecycle.bot.signals import told_to_stop
from lifecycle.bot.traffic import Phase, Traffic
from lifecycle.error_text import tell_text
from lifecycle.errors import LifecycleError
from lifecycle.tasks import outlast


async def run_polling(app: Application, dispatcher: Dispatcher, *bots: Bot, **options: Any) -> None:
    """Run the application and its bots until SIGTERM, SIGINT or `dispatcher.stop_polling()`.

    Plugins are loaded before aiogram resolves the update types to ask for. A signal during the
    start takes back what had started; while running it stops the polling; a second one cuts the
    drain short. The same signal stops all calls of this function in a process. The cancellation
    of this call means the same as a signal, and the end of one of its bots, as by a wrong token,
    ends the others.

    A program that ends with this call does so within `[app] grace` after one of them, give or take
    a second: what ignores its cancellation then (a handler, a callback, a task, a thread of
    `run_in_executor`) is named in the log, and the exit code is 1. A hook that does is waited for
    one second only. A program that goes on for a second after this call is left alone for good.
    C code that does not return hears no signal.

    Args:
        app: The application; its `[app] drain` is the time for updates in flight.
        dispatcher: The dispatcher; attached when it is not.
        *bots: One bot or several, provided as `aiogram:bots`, and the last one as `aiogram:bot`;
            their sessions are closed at the end.
        **options: For `dispatcher.start_polling`, as `allowed_updates` or `polling_timeout`
            (seconds). With `handle_as_tasks=False` aiogram cancels the update in flight itself.

    Raises:
        PluginFailedError: A plugin did not start.
        ExceptionGroup: Plugins or shutdown hooks did not end well.
        LifecycleError: There is no bot, plugins were loaded before the dispatcher was attached, a
            hook of aiogram's ended in a `CancelledError` of its own, or somebody else cancelled
            the polling.
    """
    if not bots or "bot" in options:
        raise LifecycleError("run_polling takes its bots by position: (app, dispatcher, bot, ...)")
    polling = _Polling(attached(app, dispatcher), bots, options)
    with (
        polling.last_resort() as last_resort,
        told_to_stop(lambda: polling.stop(task), last_resort.told_to_stop),
    ):
        # Not before: a bot that polls is one that hears signals.
        task = asyncio.create_task(polling.run(), name="run_polling")

        def cancelled() -> None:
            last_resort.told_to_stop()
            polling.stop(task)

        await outlast(task, cancelled)
    if not task.cancelled():
        task.result()
    elif not polling.told_to_stop:
        raise LifecycleError(
            "the polling was cancelled, and neither a signal nor the caller of run_polling did it"
        )


class _Polling:
    """One run of bots by polling."""

    def __init__(self, traffic: Traffic, bots: tuple[Bot, ...], options: dict[str, Any]) -> None:
        self._traffic = traffic
        self._bots = bots
        self._options = options
        self.told_to_stop = False

    async def run(self) -> None:
        """Load, poll until told to stop, give everything back."""
        traffic = self._traffic
        traffic.begin()
        # Raised inside of start_polling it would leave those who called stop_polling waiting.
        traffic.keeps_failure = True
        try:
            traffic.provide(self._bots)
            await traffic.app.load()
            await traffic.dispatcher.start_polling(
                *self._bots, handle_signals=False, close_bot_session=False, **self._options
            )
        except BaseException as error:
            traffic.phase = Phase.STOPPING
            if traffic.failure is not None:
                error.add_note(f"in shutdown: {tell_text(traffic.failure)}")
            await traffic.unload_after(error)
            raise
        finally:
            traffic.keeps_failure = False
            await self._close_sessions()
        if traffic.failure is not None:
            raise traffic.failure

    async def _close_sessions(self) -> None:
        """Close each session, whatever happens at the others; bots may share one."""
        sessions = {id(bot.session): bot.session for bot in self._bots}.values()
        ends = await asyncio.gather(*(each.close() for each in sessions), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end

    def last_resort(self) -> LastResort:
        """Return what ends the process when it does not end by itself."""
        app = self._traffic.app
        return LastResort(
            app.grace, self._traffic.in_flight.work, partial(app.journal.close, clean=False)
        )

    def stop(self, task: asyncio.Task[None]) -> None:
        """Stop polling; asked a second time, cut the drain short.

        Args:
            task: The task of `run`.
        """
        if self.told_to_stop:
            self._traffic.in_flight.hurry()
        elif self._traffic.phase is Phase.STARTING:
            task.cancel()
        elif self._traffic.phase is Phase.RUNNING:
            self._traffic.stop()
        self.told_to_stop = True
