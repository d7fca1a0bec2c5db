"""Classifies a SQLite statement: by its first words, and whether it may write."""

import re
from functools import lru_cache
from typing import Final

# Every repetition is possessive, so that what has matched as a comment is never matched again:
# words inside comments would be found, and a statement would end in its first comment.
_COMMENT: Final = r"(?: --[^\n]*+(?:\n|\Z) | /\*(?:[^*]++|\*(?!/))*+(?:\*/|\Z) )"
_GAP: Final = rf"(?: \s | {_COMMENT} )"
#: What is before a statement.
_BEFORE: Final = rf"(?: \ufeff | ; | {_GAP} )*+"
#: Text, or a name in one of the four kinds of quotes.
_QUOTED: Final = r"""(?: '(?:[^']++|'')*+' | "(?:[^"]++|"")*+" | `[^`]*+` | \[[^\]]*+\] )"""
#: A pragma may name its schema, and each name may be quoted.
_PRAGMA: Final = rf"""PRAGMA \b {_GAP}*+
    (?: ['\"`\[\w]+ ['\"`\]]? {_GAP}*+ \. {_GAP}*+ )? ['\"`\[]?"""


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(_BEFORE + pattern, re.VERBOSE | re.IGNORECASE | re.DOTALL)


_KINDS: Final = _compile(
    rf"""(?: (?P<waiting> {_PRAGMA} busy_timeout \b )
      | (?P<level> {_PRAGMA} read_uncommitted \b )
      | (?P<begin> BEGIN {_GAP}++ (?: IMMEDIATE | EXCLUSIVE ) \b )
      | (?P<savepoint> SAVEPOINT \b )
      | (?P<undo> ROLLBACK \b {_GAP}*+
            (?: TRANSACTION \b {_GAP}*+ (?: (?! TO \b ) \S+ {_GAP}++ )? )? TO \b )
      | (?P<read> (?: SELECT | VALUES | EXPLAIN ) \b | \Z ) )"""
)
#: The pragmas that write to the file when they are given a value, and those that always do.
_WRITING_PRAGMA: Final = rf"""(?: (?: application_id | user_version | schema_version | encoding
      | auto_vacuum | journal_mode | default_cache_size ) \b ['\"`\]]? {_GAP}*+ [=(]
    | (?: incremental_vacuum | optimize | wal_checkpoint ) \b )"""
#: What else reads only: WITH before a SELECT, settings of the connection, the end of a transaction.
_READS: Final = _compile(
    rf"""(?: WITH \b (?: {_QUOTED} | {_COMMENT}
          | (?! \b (?: INSERT | UPDATE | DELETE | REPLACE {_GAP}++ INTO ) \b ) . )*+ \Z
      | (?! {_PRAGMA} {_WRITING_PRAGMA} ) PRAGMA \b
      | VACUUM \b {_GAP}*+ (?: (?! INTO \b ) (?: \w++ | {_QUOTED} ) {_GAP}*+ )? INTO \b
      | BEGIN \b (?! {_GAP}++ (?: IMMEDIATE | EXCLUSIVE ) \b )
      | (?: COMMIT | END | ROLLBACK | RELEASE | ATTACH | DETACH ) \b )"""
)


@lru_cache(maxsize=512)  # a program repeats the same few statements
def kind(sql: str) -> str:
    """Return the kind of *sql*, if a connection must treat it specially.

    Args:
        sql: One statement, or an empty string.

    Returns:
        `waiting` and `level` for the PRAGMAs `busy_timeout` and `read_uncommitted`; `begin` for a
        BEGIN that takes the write lock; `savepoint` for SAVEPOINT, `undo` for ROLLBACK TO; `read`
        for a statement that writes nothing; otherwise an empty string.
    """
    found = _KINDS.match(sql)
    return found.lastgroup or "" if found else ""


@lru_cache(maxsize=512)
def may_write(sql: str) -> bool:
    """Return False if *sql* writes nothing to the database that its connection reads.

    Args:
        sql: One statement, or an empty string.
    """
    return kind(sql) in {"", "begin"} and not _READS.match(sql)
