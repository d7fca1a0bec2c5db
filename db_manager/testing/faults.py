"""Injects faults into the database and into plugins, to test how a program handles them.

Nothing is mocked where it can be avoided: the server itself refuses a COMMIT or ends a backend, and
errors and events come from where they come from in production.
"""

import asyncio
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Unpack
from unittest.mock import patch

import sqlalchemy.exc
from sqlalchemy import event, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import await_only

from db_manager.dialects.known import dialect_at
from db_manager.engine.create import BACKGROUND
from db_manager.errors import DbManagerError
from db_manager.testing.aim import Aim, Aimed, Witness
from db_manager.testing.sandbox import Sandbox
from db_manager.unit.held import Guard
from lifecycle.application import Application
from lifecycle.correlation import current_correlation
from lifecycle.errors import WiringError, nearest

#: Foreign key violation; on SQLite the only error with which a COMMIT is refused.
_VIOLATION: Final = "23503"


class ImpossibleFaultError(DbManagerError):
    """The fault cannot occur on this database."""


@dataclass(slots=True)
class _Fault:
    """An armed fault: which units it strikes, and how many times it will still occur.

    Args:
        name: What it is called in errors.
        left: How many times it will still occur.
        aim: The units that it strikes.
        since: How many units had begun when it was armed.
    """

    name: str
    left: int
    aim: Aim
    since: int


class Faults:
    """Injects faults into a sandbox; each occurs at the next *times* opportunities.

        faults.refuse_commit()  # or refuse_commit(handler="buy"), (plugin="shop"), (unit=2)
        with pytest.raises(IntegrityError):
            async with sandbox.uow_factory() as uow: ...

    A fault affects the next use of the sandbox's database, through any engine.

    Args:
        sandbox: The sandbox.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._url = sandbox.url
        self._dialect = dialect_at(sandbox.url)
        self._stack = ExitStack()
        self._faults: list[_Fault] = []
        self._striking = False
        self._witness = Witness(sandbox.bus)

    # -- the database ---------------------------------------------------------------------

    def refuse_commit(
        self, *, sqlstate: str = _VIOLATION, times: int = 1, **aim: Unpack[Aimed]
    ) -> None:
        """Make the server refuse the next COMMIT of a unit that may write; it is rolled back.

        Args:
            sqlstate: The server's error code. The default raises `IntegrityError`, on PostgreSQL
                and on SQLite. `40001` is a serialization failure, which `uow_factory.run` retries.
            times: Number of times.
            **aim: `handler`, `plugin` and `unit`, as for `Aim`; without, whatever comes next.

        Raises:
            ImpossibleFaultError: SQLite supports only the default.
            ValueError: *sqlstate* or *unit* is malformed, or this fault is armed already.
        """
        if re.fullmatch("[0-9A-Z]{5}", sqlstate) is None:
            raise ValueError(
                f"sqlstate: {sqlstate!r} is not five characters, digits or capital letters"
            )
        if not self._dialect.has_server and sqlstate != _VIOLATION:
            raise ImpossibleFaultError(
                f"SQLite refuses a COMMIT only for a foreign key, never with {sqlstate}; omit "
                f"`sqlstate`, or set sandbox_url to a PostgreSQL server"
            )

        def strike(connection: Connection) -> None:
            for statement in self._dialect.refuse_commit:
                _execute(connection, statement.replace("{sqlstate}", sqlstate))

        fault = self._new("refuse_commit", times, Aim(**aim))
        self._arm(fault, "commit", strike, unless=self._is_read_only)

    def lose_commit(self, *, committed: bool = True, times: int = 1, **aim: Unpack[Aimed]) -> None:
        """Lose the answer to the next COMMIT, which raises `CommitOutcomeUnknownError`.

        The deadline `exit_timeout` expires at once, so that the test does not wait for it.

        Args:
            committed: True if the server commits, False if it does not receive the COMMIT.
            times: Number of times.
            **aim: `handler`, `plugin` and `unit`, as for `Aim`; without, whatever comes next.

        Raises:
            ValueError: This fault is armed already.
        """

        def strike(connection: Connection) -> None:
            guard = Guard.of(connection.dialect)

            def lose(pooled: PoolProxiedConnection) -> None:
                if committed:
                    guard.send_commit(pooled)
                raise asyncio.CancelledError  # as the deadline does

            guard.instead[connection.connection] = lose

        fault = self._new("lose_commit", times, Aim(**aim))
        self._arm(fault, "commit", strike, unless=self._is_read_only)

    def drop_connection(self, *, times: int = 1, **aim: Unpack[Aimed]) -> None:
        """Make the server end the connection of the next statement just before it is sent.

        Statements on the driver's lane (`uow.driver()`) are not affected.

        Args:
            times: Number of times.
            **aim: `handler`, `plugin` and `unit`, as for `Aim`; without, whatever comes next.

        Raises:
            ImpossibleFaultError: SQLite has no connection to a server.
            ValueError: This fault is armed already.
        """
        if not self._dialect.has_server:
            raise ImpossibleFaultError(
                "SQLite is a file: there is no connection to drop; set sandbox_url to a "
                "PostgreSQL server"
            )

        def strike(connection: Connection) -> None:
            backend = self._dialect.backend(connection.connection.driver_connection)
            assert backend is not None  # noqa: S101 -- a sandbox is SQLite or PostgreSQL
            await_only(self._terminate(backend))

        fault = self._new("drop_connection", times, Aim(**aim))
        self._arm(fault, "before_cursor_execute", strike)

    def empty_pool(self, *, times: int = 1, **aim: Unpack[Aimed]) -> None:
        """Give the next unit no connection, which raises `PoolExhaustedError`.

        The deadline `pool_timeout` expires at once, so that the test does not wait for it.

        Args:
            times: Number of times.
            **aim: `handler`, `plugin` and `unit`, as for `Aim`; without, whatever comes next.

        Raises:
            ValueError: This fault is armed already.
        """

        def strike(connection: Connection) -> None:
            connection.close()
            raise sqlalchemy.exc.TimeoutError("the pool is empty: an injected fault")

        fault = self._new("empty_pool", times, Aim(**aim))
        self._arm(fault, "engine_connect", strike)

    # -- plugins --------------------------------------------------------------------------

    def hang_start(self, app: Application, plugin: str, *, seconds: float = 0.05) -> None:
        """Make the start hook of a plugin hang until its deadline.

        Args:
            app: The application, before its start.
            plugin: Name of the plugin.
            seconds: The deadline, instead of the plugin's own `start_timeout`.

        Raises:
            WiringError: There is no such plugin.
            ValueError: This fault is armed already.
        """
        if plugin not in app.plugins:
            raise WiringError(f"there is no plugin {plugin!r}{nearest(plugin, app.plugins)}")
        target = app.plugins[plugin].plugin
        fault = self._new(f"hang_start of {plugin!r}", 1, Aim())

        async def hang(_context: object) -> None:
            fault.left = 0
            await asyncio.Event().wait()

        self._stack.enter_context(patch.object(target, "start", hang))
        self._stack.enter_context(patch.object(target, "start_timeout", seconds))

    # -- arming ---------------------------------------------------------------------------

    def _arm(
        self,
        fault: _Fault,
        occasion: str,
        strike: Callable[[Connection], None],
        *,
        unless: Callable[[Connection], bool] = lambda _connection: False,
    ) -> None:
        def listen(connection: Connection, *_: object) -> None:
            if connection.engine.url.database != self._url.database or self._striking:
                return
            if connection.get_execution_options().get(BACKGROUND):
                return  # the plugin's own work, which nobody aims at
            if fault.left and self._aims_here(fault) and not unless(connection):
                fault.left -= 1
                self._striking = True
                try:
                    strike(connection)
                finally:
                    self._striking = False

        event.listen(Engine, occasion, listen)
        self._stack.callback(event.remove, Engine, occasion, listen)

    def _aims_here(self, fault: _Fault) -> bool:
        unit = current_correlation().unit
        return fault.aim.takes(unit, self._witness.units[fault.since :])

    def _new(self, what: str, times: int, aim: Aim) -> _Fault:
        name = what if aim.is_anywhere else f"{what}({aim})"
        if name in self._armed():
            raise ValueError(f"{name} is armed already; use `times` for more than one")
        self._witness.open()
        fault = _Fault(name, times, aim, len(self._witness.units))
        self._faults.append(fault)
        return fault

    def _is_read_only(self, connection: Connection) -> bool:
        return bool(_execute(connection, self._dialect.is_read_only_query)[0][0])

    async def _terminate(self, backend: int) -> None:
        engine = create_async_engine(self._url)
        try:
            async with engine.connect() as connection:
                await connection.execute(
                    text("SELECT pg_terminate_backend(:backend, 5000)"), {"backend": backend}
                )
        finally:
            await engine.dispose()

    def close(self) -> None:
        """Remove all faults.

        Raises:
            AssertionError: A fault never occurred, so the test did not test it.
        """
        self._stack.close()
        self._witness.close()
        left = self._armed()
        since = min((fault.since for fault in self._faults if fault.left), default=0)
        self._faults.clear()
        if left:
            told = self._witness.tell(since)
            raise AssertionError(f"faults that never occurred: {', '.join(left)}; {told}")

    def _armed(self) -> list[str]:
        return [fault.name for fault in self._faults if fault.left]

    def __repr__(self) -> str:
        return f"<Faults armed={self._armed()}>"


def _execute(connection: Connection, statement: str) -> Any:
    """Execute without SQLAlchemy's events, so that it is not counted as the unit's."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []
    finally:
        cursor.close()
