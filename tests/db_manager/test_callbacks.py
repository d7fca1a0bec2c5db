"""Callbacks of a unit: after its outcome, once the connection is back, each for itself."""

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from db_manager.database.database import Database
from db_manager.events import UnitCallbackFailed
from db_manager.running.plain import is_left, shield
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork
from lifecycle.tasks import abandoned
from observability.testing import EventRecorder


class Steps:
    """Callbacks that write down that they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def plain(self, name: str) -> Callable[[], None]:
        """Return a plain callback."""
        return lambda: self.ran.append(name)

    def slow(self, name: str) -> Callable[[], Any]:
        """Return an async callback that gives way once."""

        async def run() -> None:
            await asyncio.sleep(0)
            self.ran.append(name)

        return run


def register(uow: UnitOfWork, steps: Steps, prefix: str = "") -> None:
    """Register one callback of each kind."""
    uow.after_commit(steps.plain(f"{prefix}commit 1"))
    uow.after_commit(steps.slow(f"{prefix}commit 2"))
    uow.after_rollback(steps.slow(f"{prefix}rollback 1"))
    uow.after_rollback(steps.plain(f"{prefix}rollback 2"))


async def test_the_outcome_decides_which_run(uow_factory: UnitOfWorkFactory) -> None:
    """After a commit those for the commit run, in order; after a rollback those for that."""
    steps = Steps()
    async with uow_factory() as uow:
        register(uow, steps)
        await uow.session.execute(text("SELECT 1"))
        assert steps.ran == []
    assert steps.ran == ["commit 1", "commit 2"]
    steps.ran.clear()
    with pytest.raises(ZeroDivisionError):
        async with uow_factory() as uow:
            register(uow, steps)
            raise ZeroDivisionError
    assert steps.ran == ["rollback 1", "rollback 2"]


async def test_an_explicit_rollback_runs_them_at_once(uow_factory: UnitOfWorkFactory) -> None:
    """`rollback()` ends the unit, so its callbacks run before it returns, and only once."""
    steps = Steps()
    async with uow_factory() as uow:
        register(uow, steps)
        await uow.rollback()
        assert steps.ran == ["rollback 1", "rollback 2"]
    assert steps.ran == ["rollback 1", "rollback 2"]


async def test_they_run_after_the_connection_is_back(
    database_url: URL, open_database: Callable[..., Database]
) -> None:
    """A callback finds the connection in the pool, so that it can open a unit of its own."""
    database = open_database(database_url, pool_size=1, pool_timeout=5)
    factory = UnitOfWorkFactory(database)
    seen: list[tuple[str, float, int]] = []

    async def another() -> None:
        seen.append((str(uow.state), database.pool_levels()["used"], len(database.open)))
        async with factory() as second:
            await second.session.execute(text("SELECT 1"))
        seen.append((str(second.state), database.pool_levels()["used"], len(database.open)))

    async with factory() as uow:
        await uow.session.execute(text("SELECT 1"))
        uow.after_commit(another)
    assert seen == [("committed", 0, 0), ("committed", 0, 0)]


async def test_a_failed_one_is_reported_and_stops_nobody(
    uow_factory: UnitOfWorkFactory, events: EventRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback that raises changes neither the outcome nor the next callback."""
    steps = Steps()

    async def fail() -> None:
        raise ValueError("no letter was sent")

    async with uow_factory() as uow:
        uow.after_commit(fail)
        uow.after_commit(steps.plain("next"))
    assert (uow.state, steps.ran) == ("committed", ["next"])
    failed = events.assert_event("uow.callback_failed", unit=uow.number)
    assert isinstance(failed, UnitCallbackFailed)
    assert failed.callback.endswith("fail")
    assert failed.error.startswith(f"ValueError: raised in {__name__}:")
    events.assert_sequence("uow.commit", "uow.close", "uow.callback_failed")
    assert caplog.messages[0].startswith("callback ")


async def test_one_that_does_not_end_is_cut_off(
    database_url: URL, open_database: Callable[..., Database]
) -> None:
    """A callback has the time of an exit; then it is cancelled, reported, and the next one runs."""
    database = open_database(database_url, exit_timeout=0.5)
    steps = Steps()
    with EventRecorder(database.bus) as events:
        async with UnitOfWork(database) as uow:
            uow.after_commit(asyncio.Event().wait)
            uow.after_commit(steps.plain("next"))
    assert steps.ran == ["next"]
    events.assert_event("uow.callback_failed", error="did not end in time")


async def test_one_that_swallows_its_cancellation_is_told_to_be_late(
    database_url: URL, open_database: Callable[..., Database]
) -> None:
    """A callback that had to be cancelled did not end in time, whatever it makes of that."""
    database = open_database(database_url, exit_timeout=0.5)

    async def swallow() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def raise_another() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError

    with EventRecorder(database.bus) as events:
        async with UnitOfWork(database) as uow:
            uow.after_commit(swallow)
            uow.after_commit(raise_another)
    failed = events.topic("uow.callback_failed").events
    assert [event.error for event in failed if isinstance(event, UnitCallbackFailed)] == [
        "did not end in time"
    ] * 2


@pytest.mark.usefixtures("early_timers")
async def test_one_that_is_cancelled_early_is_told_to_be_late(
    database_url: URL, open_database: Callable[..., Database]
) -> None:
    """What the deadline cancels did not end in time, also by a timer that goes off before it."""
    database = open_database(database_url, exit_timeout=0.5)
    with EventRecorder(database.bus) as events:
        async with UnitOfWork(database) as uow:
            uow.after_commit(asyncio.Event().wait)
    events.assert_event("uow.callback_failed", error="did not end in time")


async def test_one_that_is_cancelled_by_something_else_is_not_late(
    uow_factory: UnitOfWorkFactory, events: EventRecorder
) -> None:
    """A CancelledError of a callback's own says nothing about time, and is told as what it is."""

    async def wait_for_what_was_given_up() -> None:
        given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        given_up.cancel()
        await given_up

    async with uow_factory() as uow:
        uow.after_commit(wait_for_what_was_given_up)
    failed = events.assert_event("uow.callback_failed")
    assert isinstance(failed, UnitCallbackFailed)
    assert failed.error.startswith("CancelledError")


async def test_a_cancellation_waits_for_them(uow_factory: UnitOfWorkFactory) -> None:
    """A task that is cancelled while a callback runs lets all of them end, and is cancelled."""
    steps, running, go_on = Steps(), asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        running.set()
        await go_on.wait()
        steps.ran.append("first")

    async def work() -> None:
        async with uow_factory() as uow:
            uow.after_commit(wait)
            uow.after_commit(steps.plain("second"))

    task = asyncio.create_task(work())
    await running.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait({task})
    assert task.cancelled()
    assert steps.ran == ["first", "second"]


async def test_they_are_dropped_with_their_savepoint(uow_factory: UnitOfWorkFactory) -> None:
    """Callbacks of a part that was undone never run, those before and after it do."""
    steps = Steps()
    async with uow_factory() as uow:
        uow.after_commit(steps.plain("before"))
        with pytest.raises(ZeroDivisionError):
            async with uow.savepoint():
                register(uow, steps, "dropped ")
                raise ZeroDivisionError
        async with uow.savepoint():
            uow.after_commit(steps.plain("inside"))
        uow.after_commit(steps.plain("after"))
    assert steps.ran == ["before", "inside", "after"]


class Own(BaseException):
    """An exception of the user's that is none of `Exception`."""


class Mute(Exception):  # noqa: N818 -- what it is called does not matter
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (SystemExit(3), True),
        (KeyboardInterrupt(), True),
        (Own("x"), False),
        (GeneratorExit(), False),
        (Mute(), False),
    ],
)
async def test_whatever_one_raises_is_reported(
    uow_factory: UnitOfWorkFactory,
    events: EventRecorder,
    error: BaseException,
    *,
    goes_on: bool,
    committed: bool,
    asynchronous: bool,
) -> None:
    """Outcome and other callbacks stand; what ends the program goes on after the last of them."""
    steps = Steps()

    def fail() -> None:
        raise error

    async def fail_later() -> None:
        await asyncio.sleep(0)
        raise error

    async def work() -> BaseException | None:
        try:
            async with uow_factory() as uow:
                callback = fail_later if asynchronous else fail
                register(uow, steps)
                (uow.after_commit if committed else uow.after_rollback)(callback)
                uow.after_commit(steps.plain("last"))
                uow.after_rollback(steps.plain("last"))
                await uow.session.execute(text("SELECT 1"))
                if not committed:
                    int("no number")
        except BaseException as raised:  # noqa: BLE001 -- looked at below
            return raised
        finally:
            assert uow.state == ("committed" if committed else "rolled_back")
        return None

    raised = await work()
    kind = "commit" if committed else "rollback"
    assert steps.ran == [f"{kind} 1", f"{kind} 2", "last"]
    failed = events.assert_event("uow.callback_failed")
    assert isinstance(failed, UnitCallbackFailed)
    assert failed.error.partition(":")[0] == type(error).__name__
    if goes_on:
        assert raised is error
        if not committed:
            assert isinstance(raised.__context__, ValueError)
    else:
        assert isinstance(raised, type(None) if committed else ValueError)


async def test_values_of_a_partial_are_not_told(
    uow_factory: UnitOfWorkFactory, events: EventRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """The report of a callback that was made with values names its function only."""

    def fail(_: str) -> None:
        raise ValueError

    async with uow_factory() as uow:
        uow.after_commit(functools.partial(fail, "secret"))
    failed = events.assert_event("uow.callback_failed")
    assert isinstance(failed, UnitCallbackFailed)
    assert failed.callback.endswith("fail")
    assert "secret" not in caplog.messages[0] + failed.callback


async def test_one_that_ignores_its_cancellation_is_left_behind(
    database_url: URL, open_database: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported once, the next one runs, and the last resort can name it."""
    monkeypatch.setattr("db_manager.running.plain.GRACE", 0.05)
    monkeypatch.setattr("db_manager.running.plain.LAST", 0.05)
    database = open_database(database_url, exit_timeout=0.5)
    steps, end, ended = Steps(), asyncio.Event(), asyncio.Event()

    async def deaf() -> None:
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()
        ended.set()
        raise ValueError

    with EventRecorder(database.bus) as events:
        async with UnitOfWork(database) as uow:
            uow.after_commit(deaf)
            uow.after_commit(steps.plain("next"))
        assert (uow.state, steps.ran) == ("committed", ["next"])
        assert len(abandoned()) == 1
        end.set()
        await ended.wait()
        await asyncio.sleep(0)
        events.assert_event("uow.callback_failed", error="did not end in time")
        assert events.topics.count("uow.callback_failed") == 1
    assert abandoned() == []


@pytest.mark.parametrize("cancelled", [False, True])
async def test_an_end_that_ignores_everything_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, *, cancelled: bool
) -> None:
    """A driver that never answers, not even when its line is dropped, holds no task for ever."""
    monkeypatch.setattr("db_manager.running.plain.GRACE", 0.05)
    monkeypatch.setattr("db_manager.running.plain.LAST", 0.05)
    given_up: list[bool] = []
    end = asyncio.Event()

    async def deaf() -> None:
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()

    running = deaf()
    task = asyncio.create_task(shield(running, 0.05, give_up=lambda: given_up.append(True)))
    if cancelled:
        await asyncio.sleep(0)
        task.cancel()
    interrupted = await asyncio.wait_for(task, 10)
    assert is_left(running)
    assert given_up == [True]
    assert (interrupted is not None) == cancelled
    end.set()
    while abandoned():  # noqa: ASYNC110 -- nobody else waits for it
        await asyncio.sleep(0)
    assert not is_left(running)
