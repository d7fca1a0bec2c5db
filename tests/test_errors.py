"""Every error of the packages survives a trip to another process."""

import importlib
import pickle
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import db_manager
import lifecycle
import observability
from db_manager.delivery.inbox.handling import UpdateCompletedError, UpdateTakenError
from db_manager.dialects.migration import HalfWay
from db_manager.drift.difference import SchemaDriftError
from db_manager.errors import (
    CommitOutcomeUnknownError,
    DatabaseUnavailableError,
    EndTimeoutError,
    PoolExhaustedError,
    ReadOnlyUnsupportedError,
    RetriesExhaustedError,
    TransactionEndedError,
    UnitOfWorkStateError,
    UnitOfWorkTaskError,
)
from db_manager.migrations.failure import HalfWayError, MigrationError, MigrationsPendingError
from db_manager.sending import (
    EarlyCallError,
    MessageDeadError,
    MessageUnknownError,
    NotStorableError,
)
from lifecycle.error_text import tell
from lifecycle.errors import (
    HookTimeoutError,
    IllegalHistoryError,
    PluginFailedError,
    ServiceNotFoundError,
    TransitionNotAllowedError,
)

#: Errors that are made of more than one text, with what they are made of.
ARGUMENTS: dict[type[BaseException], tuple[tuple[Any, ...], dict[str, Any]]] = {
    CommitOutcomeUnknownError: ((3, "no answer in time", 77), {}),
    DatabaseUnavailableError: (("refused",), {}),
    EarlyCallError: (("sendMessage", "bot/notes.py:42 in save"), {}),
    EndTimeoutError: ((5.0,), {}),
    HalfWayError: (("notes", "0002_title", HalfWay("", "0002_title", "2026-01-01", 7)), {}),
    HookTimeoutError: ((2.5,), {"abandoned": True}),
    IllegalHistoryError: ((4, "started twice"), {}),
    MessageDeadError: ((7, "Bad Request: chat not found"), {}),
    MessageUnknownError: ((7,), {}),
    MigrationError: (("notes", "0002_title", "it failed", 2), {}),
    MigrationsPendingError: (({"notes": ("0002_title",)},), {}),
    NotStorableError: (("sendPhoto", "photo", "is a file"), {}),
    PluginFailedError: (("notes", "start", ValueError("no file")), {}),
    PoolExhaustedError: ((2, 0.5, ["unit 1", "unit 2"], "connections", "too many clients"), {}),
    ReadOnlyUnsupportedError: (("oracle",), {}),
    RetriesExhaustedError: ((3, 1.5), {}),
    SchemaDriftError: ((["a has no column b"] * 9, "analytics"), {}),
    ServiceNotFoundError: (("notes:all", ["rates:all", "db_manager:engine"]), {}),
    TransactionEndedError: (("COMMIT was sent",), {"undone": True}),
    TransitionNotAllowedError: (("notes", "started", "load"), {}),
    UnitOfWorkStateError: (("committed", "execute", "open a new one"), {}),
    UpdateCompletedError: ((7,), {}),
    UpdateTakenError: ((7,), {}),
    UnitOfWorkTaskError: (("Task-1", "Task-2"), {}),
}
#: An answer of the local Telegram, which no caller ever catches.
INTERNAL = {"RefusedError"}


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """Yield the modules of a package."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def errors() -> list[type[BaseException]]:
    """Return the public error classes that the packages define, wherever they stand."""
    found = {
        value
        for package in (lifecycle, db_manager, observability)
        for module in modules(package)
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, BaseException)
        and value.__module__ == module.__name__
        and not name.startswith("_")
        and name not in INTERNAL
    }
    return sorted(found, key=lambda error: error.__name__)


@pytest.mark.parametrize("error", errors(), ids=lambda error: error.__name__)
def test_an_error_comes_back_from_pickle(error: type[BaseException]) -> None:
    """Class, arguments, fields and text are the same after pickle, as a worker sends them."""
    arguments, named = ARGUMENTS.get(error, (("a text",), {}))
    sent = error(*arguments, **named)
    came = pickle.loads(pickle.dumps(sent))  # noqa: S301 -- made a line above
    assert type(came) is error
    assert repr(came.args) == repr(sent.args)  # errors among them are equal to themselves only
    assert {name: repr(value) for name, value in vars(came).items()} == {
        name: repr(value) for name, value in vars(sent).items()
    }
    assert str(came) == str(sent)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (1, ("gave up after 1 attempt in 1.50 s", "the only connection was busy for 0.5 s")),
        (2, ("gave up after 2 attempts in 1.50 s", "all 2 connections were busy for 0.5 s")),
    ],
)
def test_one_is_told_in_the_singular(number: int, told: tuple[str, str]) -> None:
    """A text that counts says `1 attempt` and `2 attempts`."""
    errors = (RetriesExhaustedError(number, 1.5), PoolExhaustedError(number, 0.5, ["unit 1"]))
    for error, said in zip(errors, told, strict=True):
        assert str(error).startswith(said)
    noun = "1 error" if number == 1 else "2 errors"
    group = ExceptionGroup("", [KeyError()] * number)
    assert tell(group) == f"ExceptionGroup: {noun}: {'; '.join(['KeyError'] * number)}"
