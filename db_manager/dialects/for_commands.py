"""What commands ask of a database that a bot never does: `check`, and `migrate revision`."""

from typing import ClassVar, NamedTuple

from sqlalchemy import MetaData, inspect, text
from sqlalchemy.engine import Connection


class InvalidIndex(NamedTuple):
    """An index that no query uses, and that its table is written for all the same.

    Args:
        name: Its name.
        table: Its table.
        cure: The statement that makes it valid, or removes what is left of an attempt.
    """

    name: str
    table: str
    cure: str


class ForCommands:
    """A part of a dialect, which is asked by commands."""

    #: Queries for the TLS version (the last column of the row) and for the server's clock.
    tls_query: ClassVar[str] = ""
    clock_query: ClassVar[str] = ""
    #: Drops a database, if it is there, whoever is connected to it.
    drop_database: ClassVar[str] = "DROP DATABASE IF EXISTS {name}"
    #: How a role gets what it needs to create databases.
    grant_databases: ClassVar[str] = "let it create databases"

    def server(self, connection: Connection) -> str:
        """Return the name of the server and its version."""
        version = connection.dialect.server_version_info or ()
        return f"{connection.dialect.name} {'.'.join(map(str, version))}"

    def most_connections(self, connection: Connection) -> int | None:
        """Return the server's limit on our connections, if it reports one."""
        del connection
        return None

    def invalid_indexes(self, connection: Connection) -> list[InvalidIndex]:
        """Return the indexes that are left of an attempt to create them beside running units."""
        del connection
        return []

    def contents(self, connection: Connection) -> list[str]:
        """Return what somebody has made in the database: the names of tables and views."""
        inspector = inspect(connection)
        return [*inspector.get_table_names(), *inspector.get_view_names()]

    def empty(self, connection: Connection) -> None:
        """Drop what `contents` returns.

        Args:
            connection: A connection in a transaction.
        """
        for name in inspect(connection).get_view_names():
            quoted = connection.dialect.identifier_preparer.quote(name)
            connection.execute(text(f"DROP VIEW {quoted}"))
        there = MetaData()
        there.reflect(connection)
        there.drop_all(connection)
