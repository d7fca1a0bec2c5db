"""PostgreSQL with any driver."""

import re
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from sqlalchemy import Insert, Table, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.types import TypeEngine

from db_manager.config import DatabaseConfig
from db_manager.dialects.access import Access
from db_manager.dialects.dialect import Dialect, scalar
from db_manager.dialects.for_commands import InvalidIndex
from db_manager.dialects.postgresql.pg_dump import dump_database
from db_manager.dialects.postgresql.postgres_migration import PostgresMigration
from db_manager.dialects.postgresql.stored_types import stored_type

#: Milliseconds between PostgreSQL's checks of the client's connection while a statement runs.
#: Without them a statement whose client is gone runs to its end, and keeps its locks.
CLIENT_CHECK_INTERVAL: Final = 1000
#: Key of the advisory lock: the first eight bytes of sha256("db_manager.schema"), with the sign bit
#: cleared.
LOCK_KEY: Final = 0x495BBB2721338185
#: Query for the outcome of the transaction with the id :xid.
TRANSACTION_STATUS: Final = text("SELECT pg_xact_status(CAST(CAST(:xid AS text) AS xid8))")
#: The server's source function that detects a plan made stale by a migration; its SQLSTATE, 0A000,
#: has other causes as well.
_STALE_PLAN: Final = "RevalidateCachedQuery"
#: What a role of a scratch database may have made: each thing with the statement that drops it.
#: What belongs to an extension is none of that.
_MADE: Final = """
SELECT name, statement FROM (
    SELECT 'pg_class'::regclass AS kind, oid, relname AS name, relnamespace AS namespace,
        format('DROP %s IF EXISTS %I CASCADE', CASE relkind WHEN 'v' THEN 'VIEW'
            WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE'
            WHEN 'S' THEN 'SEQUENCE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, relname) AS statement
    FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
    UNION ALL SELECT 'pg_type'::regclass, oid, typname, typnamespace,
        format('DROP TYPE IF EXISTS %I CASCADE', typname)
    FROM pg_type WHERE typtype IN ('e', 'd')
    UNION ALL SELECT 'pg_proc'::regclass, oid, proname, pronamespace,
        format('DROP ROUTINE IF EXISTS %I(%s) CASCADE', proname,
            pg_get_function_identity_arguments(oid))
    FROM pg_proc
) AS made WHERE namespace = current_schema()::regnamespace AND NOT EXISTS (
    SELECT FROM pg_depend WHERE classid = kind AND objid = made.oid AND deptype = 'e')
ORDER BY name"""
#: Indexes that CREATE INDEX CONCURRENTLY, or REINDEX CONCURRENTLY, has left behind; one that is
#: being made now is not yet valid, and not left behind.
_INVALID: Final = """
SELECT index.relname, indrelid::regclass::text FROM pg_index
JOIN pg_class AS index ON index.oid = indexrelid
WHERE NOT indisvalid AND index.relnamespace = current_schema()::regnamespace AND NOT EXISTS (
    SELECT FROM pg_stat_progress_create_index AS running WHERE running.index_relid = indexrelid)
ORDER BY index.relname"""
#: How the names end of what a failed REINDEX CONCURRENTLY leaves: the old index is still there.
_LEFT_OVER: Final = re.compile(r"_cc(new|old)\d*$")
#: Advice on a failed attempt to connect, by SQLSTATE.
_FIXES: Final = {
    "28P01": "password: it is wrong; set {prefix}PASSWORD or {prefix}PASSWORD_FILE",
    "28000": "user: this role may not log in from here; see the server's pg_hba.conf, and `tls`",
    "3D000": "database: it does not exist; correct the name, or create the database",
    "42501": "user: the role lacks a privilege; GRANT it",
    "53300": "pool_size: the server has no connection left; lower it, or raise max_connections",
}


class PostgreSQL(Dialect):
    """PostgreSQL with an unknown driver."""

    has_reader = True
    migration = PostgresMigration
    tls_query = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl"
    clock_query = "SELECT extract(epoch FROM clock_timestamp())"
    drop_database = "DROP DATABASE IF EXISTS {name} WITH (FORCE)"
    grant_databases = "ALTER ROLE {role} CREATEDB"
    is_read_only_query = "SELECT CAST(current_setting('transaction_read_only') AS boolean)"
    refuse_commit: ClassVar[tuple[str, ...]] = (
        """DO $$ BEGIN
            CREATE FUNCTION pg_temp.refuse_commit() RETURNS trigger LANGUAGE plpgsql AS $refuse$
                BEGIN RAISE 'refused by an injected fault' USING ERRCODE = '{sqlstate}'; END
            $refuse$;
            CREATE TEMP TABLE refused_commit (id int);
            CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON pg_temp.refused_commit
                DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION pg_temp.refuse_commit();
            INSERT INTO pg_temp.refused_commit VALUES (1);
        END $$""",
    )

    def upsert(self, table: Table, names: Sequence[str]) -> Insert:
        """Return an INSERT that changes the row with the same primary key, if it is there."""
        statement, key = insert(table), [column.name for column in table.primary_key]
        changed = {name: statement.excluded[name] for name in names or key[:1]}
        return statement.on_conflict_do_update(index_elements=key, set_=changed)

    #: Not now(): a transaction that began early would overtake what was committed since.
    moment_now: ClassVar[str] = "statement_timestamp()"
    moment_at: ClassVar[str] = "to_timestamp({seconds})"
    moment_in: ClassVar[str] = "statement_timestamp() + make_interval(secs => {seconds})"
    seconds_between: ClassVar[str] = "CAST(extract(epoch FROM ({end} - {begin})) AS float)"
    sees_commits: ClassVar[str] = "current_setting('transaction_isolation') = 'read committed'"
    unsafe_settings: ClassVar[str] = (
        "SELECT name, setting FROM pg_settings "
        "WHERE name IN ('fsync', 'synchronous_commit') AND setting = 'off' ORDER BY name"
    )
    json_object: ClassVar[str] = "json_build_object"
    lock_free_ones: ClassVar[str] = "FOR UPDATE SKIP LOCKED"

    def rows_of(self, parameter: str, columns: Mapping[str, str]) -> str:
        """Return SQL for the rows in *parameter*, a JSON array of objects."""
        types = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        return f"json_to_recordset(CAST(:{parameter} AS json)) AS {parameter}({types})"

    def settings(self, config: DatabaseConfig, *, read_only: bool) -> dict[str, str]:
        """Return the settings of a session.

        Args:
            config: The section [database].
            read_only: Transactions refuse writes.
        """
        settings = {"application_name": config.application_name}
        if not config.pgbouncer:  # PgBouncer refuses unknown start-up parameters
            settings |= {
                "statement_timeout": str(int(config.statement_timeout * 1000)),
                "lock_timeout": str(int(config.lock_timeout * 1000)),
                "idle_in_transaction_session_timeout": str(
                    int(config.idle_in_transaction_timeout * 1000)
                ),
                "client_connection_check_interval": str(CLIENT_CHECK_INTERVAL),
            }
        if read_only:
            settings["default_transaction_read_only"] = "on"
        return settings

    def transaction_id(self, pooled: PoolProxiedConnection) -> int | None:
        """Return PostgreSQL's id of the transaction, 0 when it wrote nothing."""
        return int(query(pooled, "SELECT pg_current_xact_id_if_assigned()::text") or 0)

    def begin_read_only(self, connection: Connection, level: str | None) -> None:
        """Begin a read-only transaction; REPEATABLE READ gives it one snapshot."""
        connection.execution_options(
            isolation_level=level or "REPEATABLE READ", postgresql_readonly=True
        )

    def is_stale_plan(self, error: Any) -> bool:
        """Return True if the server refused a plan that a migration invalidated."""
        return bool(self.source_function(error) == _STALE_PLAN)

    def source_function(self, error: Any) -> str | None:
        """Return the server's source function that raised *error*, if the driver reports it."""
        del error
        return None

    def lock_schema(self, connection: Connection) -> bool:
        """Take an advisory lock, which ends with the transaction.

        Whoever waited in `pg_advisory_xact_lock` would hold a snapshot, and CREATE INDEX
        CONCURRENTLY of another replica would wait for that.
        """
        locked = bool(scalar(connection, f"SELECT pg_try_advisory_xact_lock({LOCK_KEY})"))
        # The transaction idles while migrations run on another connection. This statement also ends
        # the snapshot of the SELECT, which asyncpg keeps until the next one.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        return locked

    def stored_type(self, kind: TypeEngine[Any], sql: str) -> str | None:
        """Return a type as the server keeps it; None for a domain."""
        return stored_type(kind, sql)

    def server(self, connection: Connection) -> str:
        """Return the version of the server."""
        return f"PostgreSQL {scalar(connection, 'SHOW server_version')}"

    def most_connections(self, connection: Connection) -> int | None:
        """Return the number of connections that are not reserved for superusers."""
        limit = int(scalar(connection, "SHOW max_connections"))
        return limit - int(scalar(connection, "SHOW superuser_reserved_connections"))

    def invalid_indexes(self, connection: Connection) -> list[InvalidIndex]:
        """Return the indexes that are not valid, and are not being made now."""
        quote = connection.dialect.identifier_preparer.quote
        return [
            InvalidIndex(
                name,
                table,
                f"DROP INDEX CONCURRENTLY {quote(name)}"
                if _LEFT_OVER.search(name)
                else f"REINDEX INDEX CONCURRENTLY {quote(name)}, or DROP INDEX CONCURRENTLY "
                f"{quote(name)}",
            )
            for name, table in connection.execute(text(_INVALID))
        ]

    def contents(self, connection: Connection) -> list[str]:
        """Return also types, functions and sequences."""
        return [name for name, _ in connection.execute(text(_MADE))]

    def empty(self, connection: Connection) -> None:
        """Drop them one by one: the schema may belong to another role."""
        for _, statement in connection.execute(text(_MADE)).all():
            connection.exec_driver_sql(statement)

    async def back_up(self, engine: AsyncEngine, access: Access, target: Path, ending: str) -> None:
        """Copy the database with `pg_dump`."""
        await dump_database(engine, access, target, ending)

    def fix(self, error: BaseException) -> str | None:
        """Return advice on a failed attempt to connect, by its SQLSTATE."""
        below = getattr(error, "orig", None)
        state = getattr(below, "sqlstate", None) or getattr(error, "sqlstate", None)
        return super().fix(error) if state is None else _FIXES.get(str(state))


def query(pooled: PoolProxiedConnection, sql: str) -> Any:
    """Return the first column of the first row of *sql*, without SQLAlchemy's events.

    Args:
        pooled: The pooled connection of a unit; runs inside a greenlet.
        sql: The query.
    """
    cursor = pooled.cursor()
    try:
        cursor.execute(sql)
        row = cursor.fetchone()
    finally:
        cursor.close()
    return row[0] if row else None


def schema_facts(error: Any, fields: Any, type_field: str, position_field: str) -> list[str]:
    """Return the SQLSTATE of an error, and the schema objects that it names.

    Args:
        error: The driver's error.
        fields: The object with these names as attributes.
        type_field: Its attribute with the name of a type.
        position_field: Its attribute with the position in the statement.
    """
    named = {
        "constraint": "constraint_name",
        "table": "table_name",
        "column": "column_name",
        "type": type_field,
        "position": position_field,
    }
    facts = [str(state)] if (state := getattr(error, "sqlstate", None)) else []
    known = ((name, getattr(fields, field, None)) for name, field in named.items())
    return facts + [f"{name} {value}" for name, value in known if value]


def tls_mode(config: DatabaseConfig, tls: ssl.SSLContext | None) -> str:
    """Return libpq's `sslmode`."""
    if tls is None:
        return "disable"
    return "require" if config.tls == "require" else "verify-full"
