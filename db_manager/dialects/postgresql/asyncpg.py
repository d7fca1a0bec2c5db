"""PostgreSQL with asyncpg."""

import asyncio
import ssl
import uuid
from typing import Any, Final

from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_cursor
from sqlalchemy.engine import URL, Connection
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from db_manager.config import DatabaseConfig
from db_manager.dialects.dialect import answer_timeout
from db_manager.dialects.in_use import codes_of
from db_manager.dialects.postgresql.postgresql import PostgreSQL, query, schema_facts
from lifecycle.error_text import Told

# Errors that asyncpg's client raises before it sends anything. They share one class and have no
# codes, so the whole text, together with the class, serves as the code. A test provokes each.
_OTHER_TASK: Final = frozenset(
    {
        "cannot perform operation: another operation is in progress",
        "cannot use Connection.transaction() in a manually started transaction",
    }
)
#: Classes by which asyncpg says that its protocol is in a wrong state: as a rule a backend has died
#: between two steps of a statement. What is below them has other reasons, and is none of these.
_CONFUSED: Final = frozenset({"InternalClientError", "ProtocolError"})
_CLOSED: Final = frozenset(
    {"connection is closed", "cannot perform operation: connection is closed"}
)
_IN_FAILED_TRANSACTION: Final = "25P02"
#: What SQLAlchemy's cursor awaits; private there, guarded by a test.
_STATEMENTS: Final = codes_of(AsyncAdapt_asyncpg_cursor, "_prepare_and_execute", "_executemany")


class Asyncpg(PostgreSQL):
    """asyncpg: its transport reports a lost connection, and its protocol an open transaction."""

    package = "asyncpg"
    releases = ("0.32",)
    knows_lost_lines = True

    def connect_arguments(
        self, config: DatabaseConfig, url: URL, tls: ssl.SSLContext | None, *, read_only: bool
    ) -> dict[str, Any]:
        """Return the arguments for asyncpg's connect, and our connection class."""
        from db_manager.dialects.postgresql.asyncpg_connection import connect  # noqa: PLC0415 -- only when asyncpg is used

        del url
        arguments: dict[str, Any] = {
            "async_creator_fn": connect,
            "timeout": config.connect_timeout,
            "command_timeout": answer_timeout(config),
            "server_settings": self.settings(config, read_only=read_only),
            "ssl": tls or False,
        }
        if config.pgbouncer:
            arguments |= {
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": lambda: f"db_manager_{uuid.uuid4().hex}",
            }
        return arguments

    def complete(self, stock: Any) -> None:
        """Raise what older releases of SQLAlchemy do not raise, or not as an error of the database.

        These are a cancellation of a good-bye (before 2.0.42), and what asyncpg says when a backend
        dies between two steps of a statement.
        """
        from asyncpg import InternalClientError  # noqa: PLC0415 -- only when asyncpg is used

        stock.do_terminate = _terminate
        translated = stock.dbapi._asyncpg_error_translate  # noqa: SLF001 -- guarded by a test
        translated.setdefault(InternalClientError, stock.dbapi.InternalError)

    # -- a connection ---------------------------------------------------------------------

    def is_closed(self, driver: Any) -> bool:
        """Return True if the transport is closed."""
        return bool(driver.is_closed())

    def is_dead(self, driver: Any) -> bool:
        """Return True if the transport is closed, or the protocol is in a transaction."""
        return bool(driver.is_closed() or driver.is_in_transaction())

    def is_half_done(self, driver: Any) -> bool:
        """Return True if asyncpg still has the state of a transaction whose BEGIN was cancelled.

        It would treat the next unit's transaction as nested in it, and send RELEASE for COMMIT.
        """
        left: object = getattr(driver, "_top_xact", None)  # guarded by a test
        return left is not None

    # -- the transaction ------------------------------------------------------------------

    def begin(self, connection: Connection, adapter: Any, driver: Any) -> None:
        """Begin through SQLAlchemy's adapter."""
        del driver
        # Private to SQLAlchemy; the public alternative below costs an extra round trip.
        start = getattr(adapter, "_start_transaction", None)
        if start is None or not hasattr(adapter, "_transaction"):
            connection.exec_driver_sql("SELECT 1")
        elif not _has_begun(adapter):
            await_only(start())

    def is_autocommit(self, adapter: Any, driver: Any) -> bool:
        """Return True if SQLAlchemy's adapter begins no transactions."""
        del driver
        return getattr(adapter, "isolation_level", "") == "autocommit"

    def was_ended(self, adapter: Any, driver: Any, ends: int) -> bool:
        """Return True also if the adapter has begun a transaction and the server has none open."""
        if self.ends(driver) != ends:
            return True
        return _has_begun(adapter) and not driver.is_closed() and not driver.is_in_transaction()

    def is_aborted(self, pooled: PoolProxiedConnection, driver: Any) -> bool:
        """Ask the server, unless our own connection reports it with the answer to COMMIT."""
        if hasattr(driver, "reports_rollback"):
            return False
        try:
            query(pooled, "SELECT 1")
        except Exception as error:
            if getattr(error, "sqlstate", None) == _IN_FAILED_TRANSACTION:
                return True
            raise
        return False

    def is_statement(self, awaited: Any) -> bool:
        """Return True for what SQLAlchemy's cursor awaits."""
        return getattr(awaited, "cr_code", None) in _STATEMENTS

    def refuses_writes(self, driver: Any) -> bool:
        """Check the setting, whose changes the server reports to its clients."""
        return getattr(driver.get_settings(), "default_transaction_read_only", "on") == "on"

    # -- errors ---------------------------------------------------------------------------

    def is_unavailable(self, error: Any) -> bool:
        """Return True also for a connection that was lost while SQLAlchemy set it up."""
        return super().is_unavailable(error) or _refusal(error) in _CLOSED

    def is_lost(self, error: Any) -> bool:
        """Return True also if asyncpg does not know what to make of the line any more."""
        return super().is_lost(error) or type(error).__name__ in _CONFUSED

    def is_other_task_busy(self, error: Any) -> bool:
        """Return True if asyncpg refuses because a statement is still running."""
        return _refusal(error) in _OTHER_TASK

    def was_not_committed(self, error: Any) -> bool:
        """Return True also if asyncpg's client sent nothing."""
        return super().was_not_committed(error) or _refusal(error) != ""

    def source_function(self, error: Any) -> str | None:
        """Return the server's source function that raised *error*."""
        return getattr(error, "server_source_function", None)

    def tell(self, error: Any) -> Told:
        """Return the SQLSTATE, and the schema objects that the error names."""
        return type(error).__name__, schema_facts(error, error, "data_type_name", "position")

    def fix(self, error: BaseException) -> str | None:
        """Return advice on a failed attempt to connect."""
        if type(error) is ConnectionError:  # only asyncpg raises the bare class
            return (
                "tls: the server does not support TLS: enable it there, or set tls = 'disable' here"
            )
        return super().fix(error)

    def backend(self, driver: Any) -> int:
        """Return the process id of the connection's backend at the server."""
        return int(driver.get_server_pid())


def _has_begun(adapter: Any) -> bool:
    """Return True if BEGIN of SQLAlchemy's adapter was answered; private, guarded by a test.

    The adapter of SQLAlchemy 2.1 has its transaction from then on. That of 2.0 has it before, and
    a mark from then on.
    """
    begun = getattr(adapter, "_transaction", None) is not None
    return bool(getattr(adapter, "_started", begun))


def _refusal(error: Any) -> str:
    """Return the text of an error of asyncpg's client; empty for any other error."""
    return str(error) if type(error).__name__ == "InterfaceError" else ""


def _terminate(adapter: Any) -> None:
    task = asyncio.current_task() if in_greenlet() else None
    asked = task.cancelling() if task is not None else 0
    adapter.terminate()
    if task is not None and task.cancelling() > asked:
        raise asyncio.CancelledError
