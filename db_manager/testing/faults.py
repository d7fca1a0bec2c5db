"""Injects faults into the database and into plugins, to test how a program handles them.

Nothing is mocked where it can be avoided: the server itself refuses a COMMIT or ends a backend, and
errors and events come from where they come from in production.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final, Literal, Unpack
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
from db_manager.testing.aim import Aim, Aimed
from db_manager.testing.armed import Armed, Fault
from db_manager.testing.sandbox import Sandbox
from db_manager.unit.held import Guard
from db_manager.unit.uow import UnitOfWork
from lifecycle.application import Application
from lifecycle.errors import WiringError, nearest

#: Foreign key violation; on SQLite the only error with which a COMMIT is refused.
_VIOLATION: Final = "23503"


#: Between which two steps a message can be when its process dies.
_MOMENTS: Final = (("commit", "send"), ("send", "mark"))


class ImpossibleFaultError(DbManagerError):
    """The fault cannot occur on this database."""


class Faults(Armed):
    """Injects faults into a sandbox; each occurs at the next *times* opportunities.

        faults.refuse_commit()  # or refuse_commit(handler="buy"), (plugin="shop"), (unit=2)
        with pytest.raises(IntegrityError):
            async with sandbox.uow_factory() as uow: ...

    A fault affects the next use of the sandbox's database, through any engine.

    Args:
        sandbox: The sandbox.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox.bus)
        self._url = sandbox.url
        self._dialect = dialect_at(sandbox.url)
        self._striking = False

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

    # -- messages -------------------------------------------------------------------------

    def kill_between(
        self,
        first: Literal["commit", "send"],
        then: Literal["send", "mark"],
        **aim: Unpack[Aimed],
    ) -> None:
        """Let the application die that has the messages of the next unit, as far as these go.

        It sends, notes and takes nothing any more, like a process that was killed; what it had is
        free at once, as after its `lease`. Another application on the same sandbox, as after
        `telegram.end()`, is the next process.

        Args:
            first: `commit`: the unit is committed, and Telegram is never asked; `send`: Telegram
                has the first message.
            then: What does not happen any more: `send` after `commit`; `mark` after `send`, which
                would note that it was sent.
            **aim: `handler`, `plugin` and `unit`, as for `Aim`; without, whatever comes next.

        Raises:
            ValueError: It is neither of these two moments, or this fault is armed already.
        """
        from db_manager.testing.dying import dying  # noqa: PLC0415 -- aiogram: only when used

        if (first, then) not in _MOMENTS:
            raise ValueError(f"nothing is between {first!r} and {then!r}; it is one of {_MOMENTS}")
        fault = self._new(f"kill_between {first} and {then}", 1, Aim(**aim))

        def strikes(unit: UnitOfWork) -> bool:
            mine = unit.engine.url.database == self._url.database
            return bool(mine and fault.left and self._aims_here(fault))

        def died() -> None:
            fault.left = 0

        self._stack.enter_context(dying(sends=first == "send", strikes=strikes, died=died))

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
        fault: Fault,
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


def _execute(connection: Connection, statement: str) -> Any:
    """Execute without SQLAlchemy's events, so that it is not counted as the unit's."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []
    finally:
        cursor.close()
