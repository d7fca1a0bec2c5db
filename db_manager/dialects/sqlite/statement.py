"""Classifies a SQLite statement by its first words only."""

import re
from functools import lru_cache
from typing import Final

_GAP: Final = r"(?: \s | --[^\n]*(?:\n|\Z) | /\*.*?(?:\*/|\Z) )"
#: A pragma may name its schema, and each name may be quoted.
_PRAGMA: Final = rf"PRAGMA \b {_GAP}* (?: ['\"`\[\w]+ ['\"`\]]? {_GAP}* \. {_GAP}* )? ['\"`\[]?"
_KINDS: Final = re.compile(
    rf"""(?: \ufeff | ; | {_GAP} )*
    (?: (?P<waiting> {_PRAGMA} busy_timeout \b )
      | (?P<level> {_PRAGMA} read_uncommitted \b )
      | (?P<begin> BEGIN {_GAP}+ (?: IMMEDIATE | EXCLUSIVE ) \b )
      | (?P<savepoint> SAVEPOINT \b )
      | (?P<undo> ROLLBACK \b {_GAP}*
            (?: TRANSACTION \b {_GAP}* (?: (?! TO \b ) \S+ {_GAP}+ )? )? TO \b )
      | (?P<read> (?: SELECT | VALUES | EXPLAIN ) \b | \Z ) )""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)

#: What else reads only: WITH without a word that writes, a PRAGMA without a value, VACUUM INTO.
_READS: Final = re.compile(
    rf"""(?: \ufeff | ; | {_GAP} )*
    (?: WITH \b (?! .* \b (?: INSERT | REPLACE | UPDATE | DELETE ) \b )
      | PRAGMA \b [^=]* \Z
      | VACUUM \b .* \b INTO \b
      | RELEASE \b )""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
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
