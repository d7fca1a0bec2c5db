"""What SQLite makes of the type of a column: not the name counts, but which values it converts."""

import re
from typing import Final

#: Parts of a type's name, in the order in which SQLite looks for them.
_AFFINITIES: Final = (
    (re.compile("INT"), "number"),
    (re.compile("CHAR|CLOB|TEXT"), "text"),
    (re.compile(r"BLOB|^$"), "bytes"),
    # It would keep these as numbers where it can, but SQLAlchemy gives it texts that are none.
    (re.compile("^(DATE|TIME|JSON)"), "text"),
)


def affinity(sql: str) -> str:
    """Return what a column of a type keeps: `number`, `text` or `bytes`.

    Whole and other numbers are one: SQLite keeps each as it is given.

    Args:
        sql: The type, as it stands in CREATE TABLE.
    """
    found = (kept for pattern, kept in _AFFINITIES if pattern.search(sql.upper()))
    return next(found, "number")
