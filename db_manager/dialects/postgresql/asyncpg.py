"""PostgreSQL by asyncpg."""

import ssl
import uuid
from typing import Any, Final

from sqlalchemy.engine import URL, Connection
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import await_only

from db_manager.config import DatabaseConfig
from db_manager.dialects.dialect import answer_timeout
from db_manager.dialects.postgresql.postgresql import PostgreSQL, query, schema_facts
from lifecycle.error_text import Told

# What asyncpg's client says before it sends anything. It has one class for all that it refuses, and
# no codes: the whole text is the code, of that very class. A test provokes each.
_OTHER_TASK: Final = frozenset(
    {
        "cannot perform operation: another operation is in progress",
        "cannot use Connection.transaction() in a manually started transaction",
    }
)
_CLOSED: Final = frozenset(
    {"connection is closed", "cannot perform operation: connection is closed"}
)
_IN_FAILED_TRANSACTION: Final = "25P02"


class Asyncpg(PostgreSQL):
    """asyncpg: its transport tells when the line is lost, and its protocol what is open."""

    package = "asyncpg"
    release = "0.32"
    knows_lost_lines = True

    def connect_arguments(
        self, config: DatabaseConfig, url: URL, tls: ssl.SSLContext | None, *, read_only: bool
    ) -> dict[str, Any]:
        """Return what asyncpg's connect gets, and our connection in the place of its own."""
        from db_manager.dialects.postgresql.asyncpg_connection import connect  # noqa: PLC0415 -- only when used

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

    # -- a connection ---------------------------------------------------------------------

    def is_closed(self, driver: Any) -> bool:
        """Return True when the transport is closed."""
        return bool(driver.is_closed())

    def is_dead(self, driver: Any) -> bool:
        """Return True when the transport is closed, or the protocol is in a transaction."""
        return bool(driver.is_closed() or driver.is_in_transaction())

    def is_half_done(self, driver: Any) -> bool:
        """Return True when asyncpg remembers a transaction whose BEGIN was cancelled.

        It would take the next unit's for a part of it: its COMMIT would be a RELEASE.
        """
        left: object = getattr(driver, "_top_xact", None)  # guarded by a test
        return left is not None

    # -- the transaction ------------------------------------------------------------------

    def begin(self, connection: Connection, adapter: Any, driver: Any) -> None:
        """Begin, by SQLAlchemy's adapter."""
        del driver
        # Private to SQLAlchemy; the public way below costs one round trip more.
        start = getattr(adapter, "_start_transaction", None)
        if start is None or not hasattr(adapter, "_transaction"):
            connection.exec_driver_sql("SELECT 1")
        elif adapter._transaction is None:  # noqa: SLF001 -- guarded by a test
            await_only(start())

    def is_autocommit(self, adapter: Any, driver: Any) -> bool:
        """Return True when SQLAlchemy's adapter begins no transactions."""
        del driver
        return getattr(adapter, "isolation_level", "") == "autocommit"

    def was_ended(self, adapter: Any, driver: Any, ends: int) -> bool:
        """Return True also when the adapter has begun a transaction and the server is in none."""
        if self.ends(driver) != ends:
            return True
        begun = getattr(adapter, "_transaction", None) is not None  # private, as above
        return begun and not driver.is_closed() and not driver.is_in_transaction()

    def is_aborted(self, pooled: PoolProxiedConnection, driver: Any) -> bool:
        """Ask the server: only our own connection hears it in the answer to COMMIT."""
        if hasattr(driver, "hears_rollback"):
            return False
        try:
            query(pooled, "SELECT 1")
        except Exception as error:
            if getattr(error, "sqlstate", None) == _IN_FAILED_TRANSACTION:
                return True
            raise
        return False

    def refuses_writes(self, driver: Any) -> bool:
        """Look at the setting, of which the server tells its clients by itself."""
        return getattr(driver.get_settings(), "default_transaction_read_only", "on") == "on"

    # -- errors ---------------------------------------------------------------------------

    def is_unavailable(self, error: Any) -> bool:
        """Return True also for what was lost while SQLAlchemy was setting it up."""
        return super().is_unavailable(error) or _refusal(error) in _CLOSED

    def is_other_task_busy(self, error: Any) -> bool:
        """Return True when asyncpg refuses because of a statement that still runs."""
        return _refusal(error) in _OTHER_TASK

    def was_not_committed(self, error: Any) -> bool:
        """Return True also when asyncpg's client sent nothing."""
        return super().was_not_committed(error) or _refusal(error) != ""

    def source_function(self, error: Any) -> str | None:
        """Return the function of the server that raised *error*."""
        return getattr(error, "server_source_function", None)

    def tell(self, error: Any) -> Told:
        """Return what the server's error names of the schema."""
        return type(error).__name__, schema_facts(error, error, "data_type_name", "position")

    def fix(self, error: BaseException) -> str | None:
        """Return what to do about a failed attempt to connect."""
        if type(error) is ConnectionError:  # asyncpg's alone: what the system says is a subclass
            return (
                "tls: the server does not encrypt: switch that on there, or say tls = 'disable' "
                "here"
            )
        return super().fix(error)

    def backend(self, driver: Any) -> int:
        """Return the server's number of the process at the other end."""
        return int(driver.get_server_pid())


def _refusal(error: Any) -> str:
    """Return what asyncpg's client refused to do; empty for every other error."""
    return str(error) if type(error).__name__ == "InterfaceError" else ""
