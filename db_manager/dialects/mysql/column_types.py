"""Types of MariaDB and MySQL in one spelling for all that mean the same."""

import re
from typing import Final

#: What stands in a type, and how the server keeps it.
_SPELLINGS: Final = tuple(
    (re.compile(pattern), kept)
    for pattern, kept in (
        (r" (character set|collate) .*", ""),
        (r"^national ", ""),
        (r" unsigned zerofill", " zerofill"),  # which is never signed
        (r"^bool(ean)?\b", "tinyint"),
        (r"^((?:tiny|small|medium|big)?int(?:eger)?|year)\(\d+\)", r"\1"),  # a width of display
        (r"^(numeric|dec)\b", "decimal"),
        (r"^decimal(?!\()", "decimal(10, 0)"),
        (r"^decimal\((\d+)\)", r"decimal(\1, 0)"),
        (r"^(real|double( precision)?)\b", "double"),
        (r"^float\((2[5-9]|[345]\d)\)", "double"),
        (r"^float\(\d+\)", "float"),
        (r"^json\b", "longtext"),  # MariaDB has no other
        (r"^(char|binary)(?!\()", r"\1(1)"),
        (r"^(enum|set)\(.*", r"\1"),  # their values are compared one by one
    )
)
#: The server takes the smallest type that has room for that many bytes.
_SIZED: Final = re.compile(r"(text|blob)\(")


def stored_type(sql: str) -> str | None:
    """Return a type as the server keeps it.

    Args:
        sql: What SQLAlchemy writes for it.

    Returns:
        The text; None when the server chooses the type.
    """
    text = sql.casefold()
    if _SIZED.match(text):
        return None
    for pattern, kept in _SPELLINGS:
        text = pattern.sub(kept, text)
    return text
