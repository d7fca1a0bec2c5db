"""Text about errors and statements that is safe to log, because it contains no user data.

Of an error: codes and names of the schema, as far as the driver has them. Of a statement: its SQL
without the literals.
"""

import re
from functools import lru_cache
from typing import Final

from sqlalchemy.exc import StatementError

from db_manager.dialects.dialect import Dialect
from db_manager.dialects.in_use import origin
from db_manager.dialects.known import BY_PACKAGE, dialect_behind
from lifecycle.error_text import LONGEST, Told, add_reader, reader_of

#: Most characters of a statement in the line of an error.
_SHOWN: Final = 80
#: A number that is not part of a name or of a placeholder.
_NUMBER: Final = re.compile(r"(?<![\w$:?@.\"`])\d[\w.]*")


def connection_text(error: BaseException) -> str:
    """Return the class and text of a connection error: no user data has been sent at that point.

    Args:
        error: The error of a connection attempt, and of nothing else.

    Returns:
        One line, without SQL; drivers put no password into it.
    """
    below = origin(error)
    text = " ".join(str(below).split())
    return f"{type(below).__name__}: {text}"[:LONGEST] if text else type(below).__name__


@lru_cache(maxsize=512)  # a program repeats the same few statements
def statement_text(sql: str, dialect: Dialect) -> str:
    """Return *sql* without its literals: numbers become `?`, and it is cut at the first string.

    It is cut because the end of a string cannot be trusted: a value that was quoted by hand may
    itself contain quotes.

    Args:
        sql: The statement.
        dialect: The dialect of its database: in MariaDB, and possibly in SQLite, double quotes
            delimit a string.
    """
    begin = next((each for each in dialect.literal.finditer(sql) if each["text"]), None)
    shown = sql if begin is None else f"{sql[: begin.start()]}…"
    return _NUMBER.sub("?", shown)


def said_last(statement: object, dialect: Dialect) -> str:
    """Return the last statement of a unit in one readable line, without literals.

    Args:
        statement: The statement as passed to a lane. It is compiled here; if that fails, the name
            of its class is returned.
        dialect: The dialect of its database.
    """
    try:
        sql = str(statement)
    except Exception:  # noqa: BLE001 -- a construct of another dialect; a log line must not fail on it
        sql = type(statement).__name__
    return " ".join(statement_text(sql, dialect).split())


def _of_sqlalchemy(error: BaseException) -> Told:
    below = origin(error)
    if type(error) is StatementError:  # not from the database: a value that cannot be sent
        return "StatementError", [f"of {type(below).__name__}"]
    reader = reader_of(below)
    if reader is not None and reader is not _of_sqlalchemy:
        name, facts = reader(below)
        sql = getattr(error, "statement", None)
        if sql and not any(fact.startswith("table ") for fact in facts):
            shown = statement_text(sql, dialect_behind(below))
            facts.append(f"in {' '.join(shown.split())[:_SHOWN]!r}")
        return name, facts
    code = getattr(error, "code", None)
    return type(below).__name__, [f"sqlalche.me/e/{code}"] if code else []


add_reader(("sqlalchemy",), _of_sqlalchemy)
for _package, _dialect in BY_PACKAGE.items():
    add_reader((_package,), _dialect.tell)
