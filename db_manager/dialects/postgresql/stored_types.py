"""Types of PostgreSQL in one spelling for all that mean the same."""

import re
from typing import Any, Final

from sqlalchemy.dialects.postgresql import DOMAIN
from sqlalchemy.types import TypeEngine

#: What stands in a type, and how the server keeps it.
_SPELLINGS: Final = tuple(
    (re.compile(pattern), kept)
    for pattern, kept in (
        (r" collate .*", ""),
        (r"(\[\])+", "[]"),  # the number of dimensions is not kept
        (r"^decimal\b", "numeric"),
        (r"^numeric\((\d+)\)", r"numeric(\1, 0)"),
        (r"^float(\((2[5-9]|[345]\d)\))?(?=\[|$)", "double precision"),
        (r"^float\(\d+\)", "real"),
        (r"^varchar(?!\()", "text"),
        (r"^char(?![(a-z])", "char(1)"),
        (r"^[^(]*\.", ""),  # the schema of a type, which is not told when it is on the search path
    )
)


def stored_type(kind: TypeEngine[Any], sql: str) -> str | None:
    """Return a type as the server keeps it.

    Args:
        kind: SQLAlchemy's type.
        sql: What SQLAlchemy writes for it.

    Returns:
        The text; None for a domain, which a model may know as the type below it.
    """
    if isinstance(kind, DOMAIN):
        return None
    text = sql.casefold()
    for pattern, kept in _SPELLINGS:
        text = pattern.sub(kept, text)
    return text
