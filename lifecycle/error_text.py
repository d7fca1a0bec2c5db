"""The one line that stands for an error in events and log lines: what it is, never its own text.

The text of an error often holds what a user typed: a driver quotes the value that it refuses, a
handler writes `ValueError(f"bad name {name}")`. The text stays on the exception, for its caller.
"""

import errno
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import TracebackType
from typing import Final, Literal

from lifecycle.errors import PluginFailedError, counted
from lifecycle.printable import printable

#: What is told of an error: the name of its class, and facts that come from no user.
Told = tuple[str, list[str]]

_READERS: Final[dict[str, Callable[[BaseException], Told]]] = {}  # by the package of the class

#: Characters of what is told.
LONGEST: Final = 500
#: Causes of causes that are logged: a loop that fails again and again makes an endless chain.
_CAUSES: Final = 20
#: Errors of a group that are told.
_MEMBERS: Final = 3
_OURS: Final = frozenset(("lifecycle", "db_manager", "observability"))


def tell(error: BaseException) -> str:
    """Return what events and log lines say of *error*, in one line.

    Args:
        error: Any error. Its text is not looked at, unless a class of ours composes that; what
            is then told is its field `told`, when it has one.

    Returns:
        `ValueError: raised in bot.notes:42`, or with more facts where the class has them as
        fields: `UniqueViolationError: 23505, constraint uq_note_title, raised in bot.notes:42`.
    """
    try:
        name, facts = _told(error)
    except Exception:  # noqa: BLE001 -- fields of somebody's error may do anything
        name, facts = type(error).__name__, []
    return (f"{name}: {', '.join(facts)}" if facts else name)[:LONGEST]


def tell_text(error: BaseException) -> str:
    """Return *error* with its text in one line: for what no update can have caused, and for notes.

    A bot's token is masked: errors of HTTP clients name the address they asked. What is no
    character, as in the name of an undecodable file, is escaped.

    Args:
        error: What opens or looks after a plugin raised. When there is a reader for it, only that
            is told: a database quotes the rows it holds.
    """
    if reader_of(error) is not None:
        return tell(error)
    try:
        text = printable(" ".join(str(error).split()))  # before it is cut
    except Exception:  # noqa: BLE001 -- str() of somebody's error may do anything
        text = ""
    return f"{type(error).__name__}: {text}"[:LONGEST] if text else tell(error)


def textless(error: BaseException) -> BaseException:
    """Return a stand-in for *error* as the `exc_info` of a log line.

    It has the name, the traceback and the causes of the error; in the place of the text, and of
    the notes, stands what `tell` says.

    Args:
        error: Any error.
    """
    return _stand_in(error, {}, _CAUSES)


def add_reader(packages: Iterable[str], reader: Callable[[BaseException], Told]) -> None:
    """Let *reader* tell the errors whose class is from one of *packages*.

    Args:
        packages: Top-level names, as `asyncpg`.
        reader: Returns the name that is shown, and facts that come from no user.
    """
    for package in packages:
        _READERS[package] = reader


def reader_of(error: BaseException) -> Callable[[BaseException], Told] | None:
    """Return who knows the errors of the class of *error*, or of a class above it."""
    packages = (_package(kind.__module__) for kind in type(error).__mro__)
    return next((_READERS[package] for package in packages if package in _READERS), None)


class _Textless(Exception):  # noqa: N818 -- it is named after the error it stands for
    """Stands in a log line for an error."""


def _stand_in(error: BaseException, made: dict[int, BaseException], causes: int) -> BaseException:
    if id(error) in made:
        return made[id(error)]  # a cycle of causes
    kind = type(error)
    name, _, said = tell(error).partition(": ")
    stand_in: BaseException = type(name, (_Textless,), {"__module__": kind.__module__})(said)
    made[id(error)] = stand_in
    stand_in.__traceback__ = error.__traceback__
    if error.__cause__ is not None and causes:
        stand_in.__cause__ = _stand_in(error.__cause__, made, causes - 1)
    if error.__context__ is not None and causes:
        stand_in.__context__ = _stand_in(error.__context__, made, causes - 1)
    stand_in.__suppress_context__ = error.__suppress_context__
    return stand_in


def _told(error: BaseException) -> Told:
    name = type(error).__name__
    if isinstance(error, PluginFailedError):
        return name, [f"plugin {error.plugin!r} failed in {error.hook}: {tell(error.error)}"]
    if _is_composed(error):
        return name, [getattr(error, "told", "") or " ".join(str(error).split())]
    reader = reader_of(error)
    if reader is not None:
        name, facts = reader(error)
    elif isinstance(error, BaseExceptionGroup):
        members = [
            type(each).__name__ if isinstance(each, BaseExceptionGroup) else tell(each)
            for each in error.exceptions[:_MEMBERS]
        ]
        facts = [f"{counted(len(error.exceptions), 'error')}: {'; '.join(members)}"]
    elif isinstance(error, OSError) and (symbol := errno.errorcode.get(error.errno or 0)):
        facts = [symbol]
    else:
        facts = []
    where = _place(error.__traceback__)
    return name, [*facts, f"raised in {where}"] if where else facts


def _is_composed(error: BaseException) -> bool:
    """Return True when the text of *error* is composed by a class of ours, of its fields."""
    return _package(getattr(type(error).__str__, "__module__", "")) in _OURS


def _place(traceback: TracebackType | None) -> str:
    """Return `module:line` of the innermost frame that belongs to the bot.

    When the bot itself is installed among the libraries, that is the outermost frame which is not
    ours: the function that opened the unit, the callback, the subscriber.
    """
    found = fallback = None
    while traceback is not None:
        frame = traceback.tb_frame
        kind = _kind(frame.f_globals.get("__name__", "?"), frame.f_code.co_filename)
        if kind != "between":
            fallback = fallback or traceback
            if kind == "bot":
                found = traceback
        traceback = traceback.tb_next
    place = found or fallback
    if place is None:
        return ""
    return f"{place.tb_frame.f_globals.get('__name__', '?')}:{place.tb_lineno}"


@lru_cache(maxsize=1024)
def _kind(module: str, path: str) -> Literal["between", "library", "bot"]:
    """Return whose code a module is; `between` is ours and the standard library's."""
    package = _package(module)
    if package in _OURS or package in sys.stdlib_module_names:
        return "between"
    installed = "site-packages" in path or "dist-packages" in path or path.startswith("<")
    return "library" if installed else "bot"


def _package(module: str) -> str:
    return module.partition(".")[0]


def of_sqlite(error: BaseException) -> Told:
    """Return the name of an error of `sqlite3`, and its code."""
    name = getattr(error, "sqlite_errorname", None)  # none when the module itself refuses
    return type(error).__name__, [name] if name else []


add_reader(("sqlite3",), of_sqlite)  # the journal writes with it, whatever else is there
