"""Which statements of a session wait for SQLite's one writer: only those that may write."""

import pytest

from db_manager.dialects.sqlite.statement import may_write

WRITES = [
    "INSERT INTO t VALUES (1)",
    "/* SELECT */ INSERT INTO t VALUES (1)",
    "/* of the report */ UPDATE t SET x = 1 /* done */",
    "-- SELECT\nDELETE FROM t",
    "\ufeff;; REPLACE INTO t VALUES (1)",
    "WITH a AS (SELECT ')') INSERT INTO t SELECT * FROM a",
    "WITH a AS (SELECT 1) REPLACE /* x */ INTO t SELECT * FROM a",
    "with a as (select 1) /* select */ delete from t",
    "CREATE TABLE x (y)",
    "ANALYZE",
    "VACUUM",
    "VACUUM -- INTO\n",
    "VACUUM /* INTO 'x' */",
    "PRAGMA user_version = 5",
    "PRAGMA main.user_version(5)",
    "PRAGMA 'application_id' (7)",
    "PRAGMA journal_mode(DELETE)",
    "PRAGMA incremental_vacuum",
    "PRAGMA optimize",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "BEGIN IMMEDIATE",
    "begin /* x */ exclusive",
]
READS = [
    "SELECT 1",
    "/* INSERT */ SELECT 1",
    "VALUES (1)",
    "EXPLAIN QUERY PLAN DELETE FROM t",
    "WITH a AS (SELECT 1) SELECT replace(x, 'a', 'b') FROM a",
    "WITH a AS (SELECT 'delete' AS x, \"update\", [insert], `delete` FROM t) SELECT * FROM a",
    "WITH a AS (SELECT 1) SELECT * FROM a -- update",
    "PRAGMA table_info('a=b')",
    "PRAGMA user_version",
    "PRAGMA journal_mode",
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size(100)",
    "VACUUM INTO 'x'",
    "VACUUM main INTO :x",
    "BEGIN",
    "BEGIN DEFERRED TRANSACTION",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ROLLBACK TO x",
    "SAVEPOINT x",
    "RELEASE x",
    "ATTACH 'x' AS y",
    "",
]


@pytest.mark.parametrize("sql", WRITES)
def test_what_may_write(sql: str) -> None:
    """Neither a comment before it nor the spelling hides that a statement writes."""
    assert may_write(sql)


@pytest.mark.parametrize("sql", READS)
def test_what_only_reads(sql: str) -> None:
    """Words in texts, names and comments do not make a statement one that writes."""
    assert not may_write(sql)
