"""How a database makes, compares and migrates tables: the part of a dialect about its schema."""

from typing import Any, ClassVar

from sqlalchemy.engine import Connection
from sqlalchemy.types import TypeEngine

from db_manager.dialects.migration import Migration


class InChange:
    """What a dialect says of tables that are made, compared with their models, and migrated."""

    # -- creating tables ------------------------------------------------------------------

    def lock_schema(self, connection: Connection) -> bool:
        """Keep other replicas from creating tables until `unlock_schema`; do not wait for them.

        Args:
            connection: The connection that holds the lock, in a transaction.

        Returns:
            False if another process holds it.
        """
        del connection
        return True

    def unlock_schema(self, connection: Connection) -> None:
        """Allow other replicas to create tables again."""

    def let_tables_change(self, connection: Connection) -> None:
        """Hold no table that was read, where one that others are creating is refused for that.

        Args:
            connection: One that has only read; its transaction may be rolled back.
        """

    # -- tables that differ from their models ---------------------------------------------

    #: How a column of a table gets the model's type, a further value of its enumeration, and its
    #: NOT NULL (`how` is SET or DROP).
    change_type: ClassVar[str] = "ALTER TABLE {table} ALTER COLUMN {column} TYPE {type}"
    add_label: ClassVar[str] = "ALTER TYPE {type} ADD VALUE {label}"
    change_null: ClassVar[str] = "ALTER TABLE {table} ALTER COLUMN {column} {how} NOT NULL"
    #: What to do where columns and constraints of a table cannot be changed; empty where they can.
    make_anew: ClassVar[str] = ""

    def stored_type(self, kind: TypeEngine[Any], sql: str) -> str | None:
        """Return a type as the database keeps it, the same text for types that it keeps alike.

        Args:
            kind: SQLAlchemy's type, of a model or from the inspection of a table.
            sql: What SQLAlchemy writes for it in CREATE TABLE.

        Returns:
            The text; None when types of this kind cannot be compared.
        """
        del kind
        return sql.partition(" COLLATE ")[0].casefold()

    def column_key(self, name: str) -> str:
        """Return the same text for all names of one column: by default they differ in case."""
        return name

    # -- migrations -----------------------------------------------------------------------

    #: Whether a transaction takes back what a failed migration did to the schema.
    undoes_ddl: ClassVar[bool] = True
    #: Arguments for the driver's connect, for connections that migrate.
    migration_arguments: ClassVar[dict[str, Any]] = {}

    #: How it takes one migration.
    migration: ClassVar[type[Migration]] = Migration

    def loosen(self, connection: Connection) -> str:
        """Let *connection*, of a database in memory, migrate.

        Args:
            connection: Its one connection, in no transaction.

        Returns:
            The statement that undoes it; empty when there is nothing to undo.
        """
        del connection
        return ""
