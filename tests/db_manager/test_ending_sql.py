"""What plain SQL does to a transaction is known by its first words, whatever stands before them."""

import pytest

from db_manager.database.leftovers import leaves_something
from db_manager.dialects.ending_sql import commits_first, ending, ends_later, runs_others, stays

MANY = 10_000


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("COMMIT", "COMMIT"),
        (" rollback ;", "ROLLBACK"),
        ("; COMMIT", "COMMIT"),
        ("-- a\rCOMMIT", "COMMIT"),  # PostgreSQL's line ends there
        ("/* a /* b */ c */ COMMIT", "COMMIT"),  # PostgreSQL nests them
        ("/* a /* b */ COMMIT", "COMMIT"),  # the others do not
        ("/*! COMMIT */", "COMMIT"),
        ("/*! a */ COMMIT", "COMMIT"),
        ("PREPARE /* a */ TRANSACTION 'x'", "PREPARE TRANSACTION"),
        ("START\nTRANSACTION", "START TRANSACTION"),
        ("XA START 'x'", "XA"),
        ("SET autocommit = 1", "SET AUTOCOMMIT"),
        ("SET LOCAL autocommit=1", "SET AUTOCOMMIT"),
        ("SET @x=1, autocommit=1", "SET AUTOCOMMIT"),
        ("SET @x='it''s', @@session.autocommit := 1", "SET AUTOCOMMIT"),
        ('SET @x="a\\"b", `autocommit`=1', "SET AUTOCOMMIT"),
        ("SET/**/SESSION/**/autocommit/**/=/**/1", "SET AUTOCOMMIT"),
        ("SET STATEMENT max_statement_time=1 FOR ROLLBACK", "ROLLBACK"),
        ("SET STATEMENT max_statement_time=1 FOR SELECT 1", ""),
        ("SET @x = 'a, autocommit = 1'", ""),
        ("SET @autocommit = 1", ""),
        ("SET GLOBAL autocommit = 1", ""),
        ("ROLLBACK TO a", ""),
        ("ROLLBACK /* a */ WORK /* b */ TO SAVEPOINT c", ""),
        ("COMMITTED", ""),
        ("/* report */ SELECT CASE WHEN 1 THEN 2 /* otherwise */ END FROM t", ""),
    ],
)
def test_an_end_is_known_by_its_word(sql: str, word: str) -> None:
    """The first word counts, as any of the databases reads it; a part of a comment is no word."""
    assert ending(sql) == word


@pytest.mark.parametrize(
    ("sql", "postgres", "mariadb"),
    [
        ("SELECT 1; COMMIT; BEGIN", True, True),
        ("SELECT 1;\n-- a\nROLLBACK AND CHAIN", True, True),
        ("SELECT 1; SET autocommit = 1", False, True),
        ("SELECT 'a\\'; COMMIT -- '", True, False),  # a backslash is a letter in PostgreSQL's
        ("SELECT E'a\\'; COMMIT'", False, False),
        ("SELECT '; COMMIT'", False, False),
        ('SELECT 1 AS "; COMMIT"', False, False),
        ("SELECT 1 /* ; COMMIT */", False, False),
        ("DO $a$ BEGIN; COMMIT; END $a$; SELECT 1", False, True),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END", False, False),
        ("SELECT 1;", False, False),
    ],
)
def test_a_later_end_in_a_script_is_known(sql: str, postgres: bool, mariadb: bool) -> None:
    """Every statement of a script is looked at, and what stands in quotes is none."""
    assert (ends_later(sql), ends_later(sql, mariadb=True)) == (postgres, mariadb)


@pytest.mark.parametrize(
    ("sql", "commits", "stays_there", "stays_in_part"),
    [
        ("CREATE TABLE t (i INT)", True, True, False),
        ("/*! CREATE */ /* a */ TABLE t (i INT)", True, True, False),
        ("SET STATEMENT max_statement_time=1 FOR DROP TABLE t", True, True, False),
        ("DROP TABLE t, u", True, True, True),
        ("CREATE OR REPLACE TEMPORARY TABLE t (i INT)", False, True, False),
        ("LOCK TABLES t WRITE", True, False, False),
        ("ANALYZE LOCAL TABLE t", True, False, False),
        ("ANALYZE FORMAT=JSON SELECT 1", False, False, False),
        ("ANALYZE SELECT 1", False, False, False),
        ("INSERT INTO t VALUES (1)", False, False, False),
    ],
)
def test_what_commits_by_the_way_is_known(
    sql: str, commits: bool, stays_there: bool, stays_in_part: bool
) -> None:
    """MariaDB commits before DDL, which is there for good; ANALYZE of a query is a query."""
    known = commits_first(sql), stays(sql), stays(sql, failed=True)
    assert known == (commits, stays_there, stays_in_part)


@pytest.mark.parametrize(
    ("sql", "runs"),
    [
        ("/* a */ CALL p()", True),
        ("EXECUTE IMMEDIATE 'ROLLBACK'", True),
        ("BEGIN NOT ATOMIC ROLLBACK; END", True),
        ("a: LOOP ROLLBACK; END LOOP", True),
        ("BEGIN", False),
        ("SELECT 1", False),
    ],
)
def test_what_runs_other_statements_is_known(sql: str, runs: bool) -> None:
    """Nobody knows what became of the transaction in a procedure or a compound statement."""
    assert runs_others(sql) is runs


@pytest.mark.parametrize(
    "many", ["/* a */ ", "/*", "/* /* ", "/*! ", "-- a\n", "; ", "SET @a,", "("]
)
@pytest.mark.parametrize("last", ["SELECT 1", "COMMIT", "/*"])
def test_comments_are_read_once(many: str, last: str) -> None:
    """Ten thousand of them are read at once: with patterns that go back, fifty took for ever."""
    sql = many * MANY + last
    ends_nothing = not (commits_first(sql) or stays(sql) or runs_others(sql))
    is_blank = many in {"/* a */ ", "-- a\n", "; ", "/*! "}
    assert ends_nothing
    assert ending(sql) == ("COMMIT" if is_blank and last == "COMMIT" else "")
    assert ends_later(sql, mariadb=True) is (many == "; " and last == "COMMIT")
    harmless = many in {"/* a */ ", "-- a\n", "("} and last == "SELECT 1"
    assert leaves_something(sql) is not harmless
