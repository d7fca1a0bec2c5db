"""A plugin for the pytest of SQLAlchemy's own suite: its asyncio tests run on our lanes.

`AsyncSession(engine)` of a test is the session of a new unit, and `engine.connect()` and
`engine.begin()` are the Core connection of one; a test that does so begins its unit with its
first statement. What ends a block there ends the unit: `commit`, `rollback`, `close`, and the end
of `async with`. Everything else is as in a bot.
"""

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm.session import _sessions
from sqlalchemy.util import immutabledict

from db_manager import UnitOfWork
from db_manager.database.open_unit import UnitState
from db_manager.errors import UnitOfWorkStateError
from db_manager.lanes.core import UnitConnection
from db_manager.lanes.lane import refuse
from db_manager.lanes.session import SyncUnitSession, UnitSession

#: Modules of that suite, and what of theirs is replaced.
_SESSIONS = ("test_session", "test_scoping")
_CONNECTIONS = ("test_engine",)
_BOTH = ("test_cancellation",)


#: What a sessionmaker passes when nothing was said.
_DEFAULTS = {"autoflush": True, "expire_on_commit": True}
#: The units of the running test.
_made: list["LateUnit"] = []


class LateUnit(UnitOfWork):
    """A unit that is entered by its first use: the tests make sessions outside of any task."""

    __slots__ = ()

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        _made.append(self)

    def check(self) -> None:
        """Enter the unit when it is new, then do as every unit."""
        if self.state is UnitState.NEW:
            self.enter()
        super().check()

    def __getattr__(self, name: str) -> Any:
        """Enter the unit when it is new: a lane asks for what only an entered one has."""
        if name == "state" or self.state is not UnitState.NEW or name.startswith("__"):
            raise AttributeError(name)
        self.enter()
        return getattr(self, name)

    def enter(self) -> None:
        """Enter the unit; that never waits."""
        entering = self.__aenter__()
        try:
            entering.send(None)
        except StopIteration:
            return
        raise AssertionError("entering a unit waits")

    async def undo(self) -> None:
        """Roll the unit back when it is open."""
        if self.state is UnitState.ACTIVE:
            await self.rollback()

    async def leave(self) -> None:
        """Roll the unit back, whoever owns it: its test is over."""
        if self.state is UnitState.ACTIVE:
            task = asyncio.current_task()
            self._database.leave(self)
            self.owner = self.task = task
            await self.rollback()

    async def keep(self) -> None:
        """Commit the unit."""
        self.check()
        await self.__aexit__(None, None, None)


class _Block:
    """The block of a unit, where a test writes `async with session.begin()` or the like."""

    def __init__(self, unit: LateUnit, subject: Any) -> None:
        self._unit = unit
        self._subject = subject

    def __await__(self) -> Any:
        return refuse(self._unit, "begin() without a block")

    start = commit = rollback = __await__

    async def __aenter__(self) -> Any:
        self._unit.check()
        return self._subject

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._unit.__aexit__(kind, error, traceback)


class AsyncSession(UnitSession):
    """The session of a new unit, made as SQLAlchemy's sessions are."""

    def __init__(self, bind: Any = None, **options: Any) -> None:
        execution_options = options.pop("execution_options", None)
        options = {
            name: value
            for name, value in options.items()
            if value is not None and _DEFAULTS.get(name) is not value
        }
        if not isinstance(bind, AsyncEngine) or options:
            raise UnitOfWorkStateError(
                "new",
                f"a session of {type(bind).__name__} with {sorted(options)} is not for a unit",
                "its session belongs to the unit, which belongs to an engine",
            )
        self.foreign_unit = unit = LateUnit(bind)
        super().__init__(unit)
        unit.hold().session = self
        if execution_options:
            self.sync_session.execution_options = immutabledict(execution_options)

    async def __aenter__(self) -> Self:  # type: ignore[override]  # refused there
        self.foreign_unit.check()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.foreign_unit.undo()

    def begin(self) -> Any:
        """Begin a block of the unit."""
        return _Block(self.foreign_unit, self)

    async def commit(self) -> None:  # type: ignore[override]  # refused there
        """End the unit: commit."""
        await self.foreign_unit.keep()

    async def rollback(self) -> None:  # type: ignore[override]  # refused there
        """End the unit: roll back."""
        await self.foreign_unit.undo()

    async def close(self) -> None:  # type: ignore[override]  # refused there
        """End the unit: roll back, when it is open."""
        await self.foreign_unit.undo()

    aclose = close


class AsyncConnection(UnitConnection):
    """The Core connection of a new unit, made as SQLAlchemy's are."""

    __slots__ = ("foreign_unit",)

    def __init__(self, engine: AsyncEngine, _sync_connection: object = None) -> None:
        self.foreign_unit = unit = LateUnit(engine)
        super().__init__(engine, unit)
        unit.hold().core = self

    def begin(self) -> Any:
        """Begin a block of the unit."""
        return _Block(self.foreign_unit, self)

    async def start(self, is_ctxmanager: bool = False) -> Self:  # noqa: ARG002, FBT002 -- SQLAlchemy's signature
        """Enter the unit."""
        self.foreign_unit.check()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.foreign_unit.undo()

    async def commit(self) -> None:  # type: ignore[override]  # refused there
        """End the unit: commit."""
        await self.foreign_unit.keep()

    async def rollback(self) -> None:  # type: ignore[override]  # refused there
        """End the unit: roll back."""
        await self.foreign_unit.undo()

    async def close(self) -> None:  # type: ignore[override]  # refused there
        """End the unit: roll back, when it is open."""
        await self.foreign_unit.undo()

    aclose = close


def _connect(engine: AsyncEngine) -> AsyncConnection:
    return AsyncConnection(engine)


@asynccontextmanager
async def _begin(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    connection = AsyncConnection(engine)
    async with _Block(connection.foreign_unit, connection):
        yield connection


@pytest.fixture(autouse=True)
def _ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the tests of the asyncio extension our sessions and connections."""
    name = request.module.__name__.rpartition(".")[2]
    if name in _SESSIONS + _BOTH:
        for known in ("AsyncSession", "_AsyncSession"):
            if hasattr(request.module, known):
                monkeypatch.setattr(request.module, known, AsyncSession)
        if hasattr(request.module, "async_sessionmaker"):
            monkeypatch.setattr(
                request.module,
                "async_sessionmaker",
                lambda *args, **options: async_sessionmaker(*args, class_=AsyncSession, **options),
            )
    if name in _CONNECTIONS + _BOTH:
        monkeypatch.setattr(AsyncEngine, "connect", _connect)
        monkeypatch.setattr(AsyncEngine, "begin", _begin)
        if hasattr(request.module, "AsyncConnection"):
            monkeypatch.setattr(request.module, "AsyncConnection", AsyncConnection)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """End the units of a test before the suite takes the tables away."""
    # Only now: their conftest wants to be the first that imports sqlalchemy.testing.
    from sqlalchemy.testing.asyncio import _run_coroutine_function  # noqa: PLC0415 -- see above

    try:
        return (yield)
    finally:
        units, _made[:] = _made[:], []
        for unit in units:
            _run_coroutine_function(unit.leave)  # type: ignore[no-untyped-call]  # it is theirs
        for key, session in tuple(_sessions.items()):
            if isinstance(session, SyncUnitSession):
                del _sessions[key]
