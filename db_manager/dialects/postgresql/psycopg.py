"""PostgreSQL with psycopg, whose libpq knows the state of a connection."""

import asyncio
import ssl
from typing import Any, Final

from sqlalchemy.engine import URL, Connection
from sqlalchemy.pool import PoolProxiedConnection

from db_manager.config import DatabaseConfig
from db_manager.dialects.dialect import answer_timeout
from db_manager.dialects.polling import HUNG_UP, READABLE, polled
from db_manager.dialects.postgresql.postgresql import PostgreSQL, schema_facts, tls_mode
from lifecycle.error_text import Told

#: With these, the silent loss of an idle connection is detected after a minute.
KEEPALIVE: Final = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
#: libpq's statuses for no transaction, and for one in which a statement failed.
_IDLE, _INERROR = 0, 3
#: Connection parameters that libpq does not need to check whether a server is there.
_SECRET: Final = frozenset({"password", "passfile", "sslpassword", "oauth_client_secret"})


class Psycopg(PostgreSQL):
    """psycopg."""

    package = "psycopg"
    knows_lost_lines = True
    factories = ("row_factory", "cursor_factory", "server_cursor_factory")

    def connect_arguments(
        self, config: DatabaseConfig, url: URL, tls: ssl.SSLContext | None, *, read_only: bool
    ) -> dict[str, Any]:
        """Return libpq's parameters, and our connection class."""
        del url
        settings = self.settings(config, read_only=read_only)
        arguments: dict[str, Any] = {
            "async_creator_fn": _connect,
            "answer_timeout": answer_timeout(config),
            "connect_timeout": max(2, round(config.connect_timeout)),  # libpq's minimum is 2
            **KEEPALIVE,
            "application_name": settings.pop("application_name"),
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
            "sslmode": tls_mode(config, tls),
        }
        if config.tls_ca:
            arguments["sslrootcert"] = str(config.tls_ca)
        elif arguments["sslmode"] == "verify-full":
            arguments["sslrootcert"] = "system"
        if config.pgbouncer:
            arguments["prepare_threshold"] = None
        return arguments

    # -- a connection ---------------------------------------------------------------------

    def is_closed(self, driver: Any) -> bool:
        """Check the socket too: psycopg notices a closed one only when it uses it."""
        return driver.closed or (HUNG_UP > 0 and polled(driver.pgconn.socket, HUNG_UP))

    def is_dead(self, driver: Any) -> bool:
        """Return True if it is in a transaction, or the socket has data to read.

        Anything to read on an idle connection means that the server closed it.
        """
        # Not `driver.info`, which creates two objects for a number.
        if driver.closed or driver.pgconn.transaction_status != _IDLE:
            return True
        return polled(driver.pgconn.socket, READABLE)

    def is_settled(self, pooled: PoolProxiedConnection) -> bool:
        """Return True if libpq is in no transaction and psycopg in no pipeline."""
        driver: Any = pooled.driver_connection
        return driver.pgconn.transaction_status == _IDLE and not self.is_half_done(driver)

    def is_half_done(self, driver: Any) -> bool:
        """Return True if psycopg is still in a pipeline, or in a two-phase transaction.

        In the pipeline of a cancelled `executemany` the statements of the next unit would return
        no results. In a two-phase transaction psycopg refuses COMMIT and ROLLBACK.
        """
        # Guarded by tests.
        return driver._pipeline is not None or driver._tpc is not None  # noqa: SLF001 -- as above

    def hang_up(self, connection: Connection) -> None:
        """Close the socket; SQLAlchemy would wait for the server."""
        driver: Any = connection.connection.driver_connection
        connection.connection.detach()
        getattr(driver, "terminate", driver.pgconn.finish)()

    # -- the transaction ------------------------------------------------------------------

    def is_aborted(self, pooled: PoolProxiedConnection, driver: Any) -> bool:
        """Return libpq's status after the last answer."""
        del pooled
        return bool(driver.pgconn.transaction_status == _INERROR)

    def refuses_writes(self, driver: Any) -> bool:
        """Check the setting, whose changes the server reports to its clients."""
        return (driver.info.parameter_status("default_transaction_read_only") or "on") == "on"

    # -- errors ---------------------------------------------------------------------------

    def is_uncoded(self, error: Any) -> bool:
        """Return True if psycopg gave no code, as it never does for an attempt to connect.

        Then a server that is down and one that refuses us look the same.
        """
        return not getattr(error, "sqlstate", None)

    async def refuses_us(self, error: Any) -> bool:
        """Ping the server with libpq, without credentials: the error's text is never searched."""
        pgconn: Any = getattr(error, "pgconn", None)
        if pgconn is None:  # the host name did not resolve
            return False
        from psycopg.conninfo import make_conninfo  # noqa: PLC0415 -- only when psycopg is used
        from psycopg.pq import PGconn, Ping  # noqa: PLC0415 -- the same

        known = {
            option.keyword.decode(): option.val.decode() for option in pgconn.info if option.val
        }
        asked = make_conninfo("", **{key: known[key] for key in known.keys() - _SECRET})
        return bool(await asyncio.to_thread(PGconn.ping, asked.encode()) == Ping.OK)

    def source_function(self, error: Any) -> str | None:
        """Return the server's source function that raised *error*."""
        diag: Any = getattr(error, "diag", None)
        return getattr(diag, "source_function", None)

    def tell(self, error: Any) -> Told:
        """Return the SQLSTATE, and the schema objects that the error names."""
        name = type(error).__name__
        if getattr(error, "pgconn", None) is not None:  # of an attempt to connect
            return name, [" ".join(str(error).split())]
        fields = getattr(error, "diag", None)
        return name, schema_facts(error, fields, "datatype_name", "statement_position")

    def backend(self, driver: Any) -> int:
        """Return the process id of the connection's backend at the server."""
        return int(driver.info.backend_pid)


def _connect(*args: Any, **kwargs: Any) -> Any:
    from db_manager.dialects.postgresql.psycopg_connection import connect  # noqa: PLC0415 -- only when installed

    return connect(*args, **kwargs)
