"""What `db_manager` offers, and what it does not import before it is needed."""

import subprocess
import sys

import pytest

import db_manager


def test_every_public_name_is_there() -> None:
    """Each name of `__all__` can be imported, and `dir` shows exactly these."""
    assert dir(db_manager) == sorted(db_manager.__all__)
    for name in db_manager.__all__:
        found = getattr(db_manager, name)
        assert getattr(found, "__name__", name) == name  # a constant has none


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that is not there is refused as every module does, and by type checkers."""
    with pytest.raises(AttributeError, match="module 'db_manager' has no attribute 'Bass'"):
        _ = db_manager.Bass  # type: ignore[attr-defined]  # that is the point


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import db_manager", ("sqlalchemy", "aiogram", "pydantic")),
        ("from db_manager import DatabaseConfig", ("sqlalchemy", "aiogram")),
        ("from db_manager import DatabasePlugin, UnitOfWork, Base", ("aiogram", "asyncpg")),
    ],
)
def test_nothing_is_imported_before_it_is_needed(statement: str, absent: tuple[str, ...]) -> None:
    """A program pays only for the names that it uses."""
    code = f"{statement}; import sys; print(*(n for n in {absent!r} if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.split() == []
