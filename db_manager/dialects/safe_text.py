"""What is told of errors of databases: codes and names of the schema, as far as drivers have them.

And of statements: their text without the literals.
"""

import importlib
import re
from contextlib import suppress
from functools import cache, lru_cache
from typing import Any, Final

from sqlalchemy.exc import StatementError

from db_manager.dialects.classify import errno, origin
from lifecycle.error_text import LONGEST, Told, add_reader, reader_of

#: Where a text, a comment or a quoted body may begin.
_TEXT: Final = re.compile(r"'|--|/\*|\$\w*\$")
_MYSQL_TEXT: Final = re.compile(r"'|\"|--|/\*|#")
#: SQLite takes a name in double quotes that it does not know for a text; not where only a name may
#: stand: before or behind a dot, and behind these words.
_SQLITE_TEXT: Final = re.compile(
    r"""(?: \. | \b(?:FROM|INTO|JOIN|UPDATE|TABLE)\s+ ) "[^"]*" | "[^"]*" (?=\.)
    | (?P<text> ' | " | -- | /\* )""",
    re.VERBOSE | re.IGNORECASE,
)
#: Characters of a statement that the line of an error has.
_SHOWN: Final = 80
#: A number that is no part of a name or of a placeholder.
_NUMBER: Final = re.compile(r"(?<![\w$:?@.\"`])\d[\w.]*")


def connection_text(error: BaseException) -> str:
    """Return what an attempt to connect said, with its text: no value of a user was sent yet.

    Args:
        error: Of a connection attempt, and of nothing else.

    Returns:
        One line, without SQL; drivers put no password into it.
    """
    below = origin(error)
    text = " ".join(str(below).split())
    return f"{type(below).__name__}: {text}"[:LONGEST] if text else type(below).__name__


@lru_cache(maxsize=512)  # the same few statements, again and again
def statement_text(sql: str, dialect: str) -> str:
    """Return *sql* without its literals: each number is `?`, and it ends at the first text.

    The end, and not a gap, because a text that was put between quotes by hand may hold quotes.

    Args:
        sql: The statement.
        dialect: SQLAlchemy's name of it: MariaDB takes double quotes for a text, and so may SQLite.
    """
    if dialect == "sqlite":
        texts = (found for found in _SQLITE_TEXT.finditer(sql) if found["text"])
        begin = next(texts, None)
    else:
        begin = (_MYSQL_TEXT if dialect in {"mysql", "mariadb"} else _TEXT).search(sql)
    shown = sql if begin is None else f"{sql[: begin.start()]}…"
    return _NUMBER.sub("?", shown)


def said_last(statement: object, dialect: str) -> str:
    """Return the last statement of a unit for people, in one line without literals.

    Args:
        statement: As it was handed to a lane; it becomes a text here, and some have none.
        dialect: SQLAlchemy's name of the database's language.
    """
    try:
        sql = str(statement)
    except Exception:  # noqa: BLE001 -- a construct of one dialect only; its text is no reason to fail
        sql = type(statement).__name__
    return " ".join(statement_text(sql, dialect).split())


def _of_sqlalchemy(error: BaseException) -> Told:
    below = origin(error)
    if type(error) is StatementError:  # no answer of a database: a value that cannot be sent
        return "StatementError", [f"of {type(below).__name__}"]
    reader = reader_of(below)
    if reader is not None and reader is not _of_sqlalchemy:
        name, facts = reader(below)
        sql = getattr(error, "statement", None)
        if sql and not any(fact.startswith("table ") for fact in facts):
            in_sqlite = type(below).__module__ == "sqlite3"
            dialect = "mysql" if reader is _of_mysql else "sqlite" if in_sqlite else ""
            facts.append(f"in {' '.join(statement_text(sql, dialect).split())[:_SHOWN]!r}")
        return name, facts
    code = getattr(error, "code", None)
    return type(below).__name__, [f"sqlalche.me/e/{code}"] if code else []


def _of_asyncpg(error: BaseException) -> Told:
    return type(error).__name__, _schema_facts(error, error, "data_type_name", "position")


def _of_psycopg(error: BaseException) -> Told:
    if getattr(error, "pgconn", None) is not None:  # of a connection attempt, which has no codes
        return type(error).__name__, [" ".join(str(error).split())]
    fields = getattr(error, "diag", None)
    return type(error).__name__, _schema_facts(error, fields, "datatype_name", "statement_position")


def _schema_facts(error: Any, fields: Any, type_field: str, position_field: str) -> list[str]:
    named = {
        "constraint": "constraint_name",
        "table": "table_name",
        "column": "column_name",
        "type": type_field,
        "position": position_field,
    }
    facts = [str(state)] if (state := getattr(error, "sqlstate", None)) else []
    known = ((name, getattr(fields, field, None)) for name, field in named.items())
    return facts + [f"{name} {value}" for name, value in known if value]


def _of_mysql(error: BaseException) -> Told:
    number = errno(error)
    name = _mysql_names().get(number, "")
    return type(error).__name__, [f"{number} {name}".rstrip()] if number else []


@cache
def _mysql_names() -> dict[int, str]:
    """Return the names of the server's errors by their numbers, as the driver has them."""
    names = {}
    for kind in ("ER", "CR"):
        with suppress(ImportError):
            module = importlib.import_module(f"asyncmy.constants.{kind}")
            names.update({v: k for k, v in vars(module).items() if isinstance(v, int)})
    return names


add_reader(("sqlalchemy",), _of_sqlalchemy)
add_reader(("asyncpg",), _of_asyncpg)
add_reader(("psycopg",), _of_psycopg)
add_reader(("asyncmy",), _of_mysql)
