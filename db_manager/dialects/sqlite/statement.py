"""What a statement of SQLite is, by its first words and by nothing that stands further on."""

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
      | (?P<savepoint> SAVEPOINT \b )
      | (?P<undo> ROLLBACK \b {_GAP}*
            (?: TRANSACTION \b {_GAP}* (?: (?! TO \b ) \S+ {_GAP}+ )? )? TO \b )
      | (?P<read> (?: SELECT | VALUES | EXPLAIN ) \b | \Z ) )""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


@lru_cache(maxsize=512)  # the same few statements, again and again
def kind(sql: str) -> str:
    """Return what *sql* is, as far as a connection has to treat it apart.

    Args:
        sql: One statement, or nothing.

    Returns:
        `waiting` and `level` for the PRAGMAs about `busy_timeout` and `read_uncommitted`;
        `savepoint` for what begins a part of the transaction, `undo` for ROLLBACK TO; `read` for
        what writes nothing, not even when no transaction is begun; else an empty string.
    """
    found = _KINDS.match(sql)
    return found.lastgroup or "" if found else ""
