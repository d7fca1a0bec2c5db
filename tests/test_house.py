"""The rules of the house that no linter knows."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("lifecycle", "db_manager", "observability")
#: Calls that ask what kind of thing something is, and what must not be asked so.
ASKS = {"hasattr", "isinstance", "getattr"}
DRIVERS = {"driver", "adapter", "dbapi_connection", "driver_connection"}
NAMES = {"name", "driver", "drivername"}


def asked_by_name(source: str) -> Iterator[str]:
    """Yield the places of *source* that ask which database or which driver something is."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            subject = ast.unparse(node.args[0]).rpartition(".")[2] if node.args else ""
            if node.func.id in ASKS and subject in DRIVERS:
                yield ast.unparse(node)
        elif isinstance(node, ast.Compare) or (
            isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant)
        ):
            for part in ast.walk(node):
                if isinstance(part, ast.Attribute) and part.attr in NAMES:
                    owner = ast.unparse(part.value).rpartition(".")[2]
                    if owner == "dialect":
                        yield ast.unparse(node)


def test_only_dialects_know_databases_by_name() -> None:
    """Outside of the dialects no module of db_manager asks which database or driver it has."""
    folder = ROOT / "db_manager"
    files = [
        file for file in folder.rglob("*.py") if file.relative_to(folder).parts[0] != "dialects"
    ]
    assert len(files) > 40
    found = {
        f"{file.relative_to(ROOT)}: {place}"
        for file in files
        for place in asked_by_name(file.read_text(encoding="utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    "source",
    [
        "if connection.dialect.name == 'sqlite': pass",
        "if engine.dialect.driver in {'asyncpg'}: pass",
        "hasattr(driver, 'pgconn')",
        "getattr(proxy.driver_connection, 'ends', 0)",
        "isinstance(driver, SqliteConnection)",
        "QUERIES[connection.dialect.name]",
    ],
)
def test_a_question_by_name_would_be_found(source: str) -> None:
    """Each way in which it was asked once is found."""
    assert list(asked_by_name(source)) == [source.removeprefix("if ").partition(":")[0]]


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_rooms_have_a_size(package: str) -> None:
    """A file has at most 300 lines, and a room about ten files."""
    files = list((ROOT / package).rglob("*.py"))
    lines = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in files
    }
    assert {name: count for name, count in lines.items() if count > 300} == {}
    rooms = {file.parent for file in files}
    crowded = {
        str(room.relative_to(ROOT)): count
        for room in rooms
        if (count := len([file for file in room.glob("*.py") if file.stem != "__init__"])) > 11
    }
    assert crowded == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_is_long(package: str) -> None:
    """A function has at most 40 lines, without its docstring."""
    long = {
        f"{file.relative_to(ROOT)}: {node.name}"
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if _length(node) > 40
    }
    assert long == set()


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_stands_twice(package: str) -> None:
    """No two files of a package have one name."""
    stems = [file.stem for file in (ROOT / package).rglob("*.py") if not file.stem.startswith("__")]
    assert sorted({stem for stem in stems if stems.count(stem) > 1}) == []
