"""Plain SQL that ends a transaction, or begins another one in its place."""

import re
from functools import lru_cache
from typing import Final

#: Parts of a transaction (SAVEPOINT, RELEASE, ROLLBACK TO) end nothing.
_ENDS: Final = re.compile(
    r"""(?:\s | /\*.*?\*/ | --[^\n]*\n)*
    ( COMMIT | END | ABORT | BEGIN | START\s+TRANSACTION | PREPARE\s+TRANSACTION
    | ROLLBACK (?! (?:\s+WORK|\s+TRANSACTION)? \s+ TO\b ) )\b""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
#: What ends a transaction on every database; BEGIN does so on MariaDB alone.
ENDS: Final = frozenset({"COMMIT", "END", "ABORT", "ROLLBACK", "PREPARE TRANSACTION"})


@lru_cache(maxsize=512)  # the same few statements, again and again
def ending(sql: str) -> str:
    """Return the word in *sql* that ends a transaction, as `COMMIT`; empty when it ends none.

    Of a script of several statements only the first one is looked at.

    Args:
        sql: Any statement.
    """
    found = _ENDS.match(sql)
    return " ".join(found[1].upper().split()) if found else ""
