"""MariaDB and MySQL with asyncmy."""

import importlib
import ssl
from contextlib import suppress
from functools import cache
from typing import Any, Final

from sqlalchemy.engine import URL
from sqlalchemy.pool import PoolProxiedConnection

from db_manager.config import DatabaseConfig
from db_manager.dialects.dialect import answer_timeout
from db_manager.dialects.mysql.mysql import MySQL, number_of
from lifecycle.error_text import Told

#: The flag for an open transaction, in the status that the server sends with each answer.
_IN_TRANSACTION: Final = 1


class Asyncmy(MySQL):
    """asyncmy: each answer of the server reports whether a transaction is open."""

    package = "asyncmy"
    knows_lost_lines = True

    def connect_arguments(
        self, config: DatabaseConfig, url: URL, tls: ssl.SSLContext | None, *, read_only: bool
    ) -> dict[str, Any]:
        """Return the arguments for any MySQL driver, and our connection class."""
        return super().connect_arguments(config, url, tls, read_only=read_only) | {
            "async_creator_fn": _connect,
            "answer_timeout": answer_timeout(config),
            "connect_timeout": config.connect_timeout,
        }

    def is_closed(self, driver: Any) -> bool:
        """Return True if the stream is broken."""
        return bool(driver._stream_broken)  # noqa: SLF001 -- there is no public attribute; guarded by a test

    def is_dead(self, driver: Any) -> bool:
        """Return True also if the last answer reported an open transaction."""
        return self.is_closed(driver) or bool(driver.server_status & _IN_TRANSACTION)

    def is_settled(self, pooled: PoolProxiedConnection) -> bool:
        """Return True if the last answer reported no open transaction."""
        return not self.is_dead(pooled.driver_connection)

    def implicit_commits(self, driver: Any) -> int | None:
        """Return what our connection has counted; the stock one does not count."""
        return getattr(driver, "implicit_commits", None)

    def is_aborted(self, pooled: PoolProxiedConnection, driver: Any) -> bool:
        """Return True if a failed statement rolled back the transaction, as after a deadlock."""
        del pooled
        return getattr(driver, "failed", False)

    def tell(self, error: Any) -> Told:
        """Return the number of *error*, with the server's name for it."""
        name, facts = super().tell(error)
        return name, [f"{each} {_names().get(number_of(error), '')}".rstrip() for each in facts]


def _connect(*args: Any, **kwargs: Any) -> Any:
    from db_manager.dialects.mysql.asyncmy_connection import connect  # noqa: PLC0415 -- only when asyncmy is installed

    return connect(*args, **kwargs)


@cache
def _names() -> dict[int, str]:
    """Return the driver's names of errors by number."""
    names = {}
    for kind in ("ER", "CR"):
        with suppress(ImportError):
            module = importlib.import_module(f"asyncmy.constants.{kind}")
            names.update({v: k for k, v in vars(module).items() if isinstance(v, int)})
    return names
