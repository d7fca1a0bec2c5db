"""Plain SQL that ends a transaction, or begins another one in its place."""

import re
from functools import lru_cache
from typing import Final

#: Parts of a transaction (SAVEPOINT, RELEASE, ROLLBACK TO) end nothing. MariaDB executes what
#: stands in a comment with an exclamation mark.
_ENDS: Final = re.compile(
    r"""(?:\s | /\*M?!\d* | /\*.*?\*/ | (?:--|\#)[^\n]*\n)*
    ( COMMIT | END | ABORT | BEGIN | START\s+TRANSACTION | PREPARE\s+TRANSACTION
    | LOCK\s+TABLES
    | SET\s+(?:SESSION\s+|@@(?:\w+\.)?)?AUTOCOMMIT
    | ROLLBACK (?! (?:\s+WORK|\s+TRANSACTION)? \s+ TO\b ) )\b""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
#: What ends a transaction on every database; BEGIN does so on MariaDB alone.
ENDS: Final = frozenset({"COMMIT", "END", "ABORT", "ROLLBACK", "PREPARE TRANSACTION"})
#: What commits the transaction before it, on MariaDB, and also when it fails itself.
_COMMITS_FIRST: Final = re.compile(
    r"""(?:\s | /\*.*?\*/ | (?:--|\#)[^\n]*\n)*
    (?: CREATE (?! \s+ (?:OR\s+REPLACE\s+)? TEMPORARY ) | DROP (?! \s+ TEMPORARY ) | ALTER
    | RENAME | TRUNCATE | GRANT | REVOKE | LOCK | UNLOCK | ANALYZE | OPTIMIZE | REPAIR | CHECK
    | CACHE | FLUSH | INSTALL | UNINSTALL | RESET | LOAD\s+INDEX | SET\s+PASSWORD )\b""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
#: What may run anything, and so end a transaction and fail afterwards.
_RUNS_OTHERS: Final = re.compile(r"\s*(?:CALL|EXECUTE)\b", re.IGNORECASE)


@lru_cache(maxsize=512)  # the same few statements, again and again
def ending(sql: str) -> str:
    """Return the word in *sql* that ends a transaction, as `COMMIT`; empty when it ends none.

    Of a script of several statements only the first one is looked at.

    Args:
        sql: Any statement.
    """
    found = _ENDS.match(sql)
    return " ".join(found[1].upper().split()) if found else ""


def commits_first(sql: str) -> bool:
    """Return True when *sql* commits on MariaDB what was before it, as DDL does.

    Args:
        sql: Any statement.
    """
    return _COMMITS_FIRST.match(sql) is not None


def runs_others(sql: str) -> bool:
    """Return True when *sql* runs other statements, of a procedure for example.

    Args:
        sql: Any statement.
    """
    return _RUNS_OTHERS.match(sql) is not None
