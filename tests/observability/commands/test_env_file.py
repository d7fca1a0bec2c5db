"""`--env-file`: a file of variables is read when told, and shown to nobody."""

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from observability.commands.cli import main

CANARY = "c4n4ry-in-dotenv"
CONFIG = '[app]\nplugins = ["db_manager"]\njournal = "memory"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config.toml, the working directory, with an environment of its own."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in list(os.environ):
        if name.upper().startswith(("DATABASE__", "APP__")):
            del os.environ[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    """Return the exit code and what was printed."""
    shown = io.StringIO()
    with redirect_stdout(shown), redirect_stderr(shown):
        code = main(arguments)
    return code, shown.getvalue()


def test_a_file_is_read_only_when_it_is_named(folder: Path) -> None:
    """A .env beside config.toml changes nothing by itself."""
    (folder / ".env").write_text('NAME=mine\nexport DATABASE__DATABASE="${NAME}.sqlite3"\nEMPTY\n')
    code, shown = run("check")
    assert code == 0
    assert "bot.sqlite3" in shown
    code, shown = run("check", "--env-file", ".env")
    assert code == 0
    assert f"{folder}/mine.sqlite3" in shown


def test_the_environment_goes_before_the_file(folder: Path) -> None:
    """A variable that is there stays, whatever the case of its name."""
    os.environ["database__database"] = "theirs.sqlite3"  # noqa: SIM112 -- as pydantic allows
    (folder / "prod.env").write_text("DATABASE__DATABASE=mine.sqlite3\n")
    _, shown = run("check", "--env-file", "prod.env")
    assert "theirs.sqlite3" in shown
    assert "mine.sqlite3" not in shown


def test_a_wrong_name_is_found_and_no_value_is_shown(folder: Path) -> None:
    """The file is checked as the environment is, for a password too."""
    (folder / ".env").write_text(f"DATABASE__PASWORD={CANARY}\nTOKEN={CANARY}\n")
    code, shown = run("check", "--env-file", ".env")
    assert code == 1
    assert (
        "unknown environment variable DATABASE__PASWORD; did you mean DATABASE__PASSWORD" in shown
    )
    assert CANARY not in shown


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ".env: there is no such file; pass yours with --env-file"),
        (b"A=\xff", ".env: is not UTF-8 at byte 2; save it as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    folder: Path, content: bytes | None, said: str
) -> None:
    """It ends with exit code 2 before anything is checked."""
    if content is not None:
        (folder / ".env").write_bytes(content)
    assert run("check", "--env-file", ".env") == (2, f"db-manager check: {said}\n")


def test_other_commands_read_it_too(folder: Path) -> None:
    """The journal that `trace` opens may be named in it."""
    (folder / ".env").write_text("APP__JOURNAL=history/of.sqlite3\n")
    code, shown = run("trace", "--env-file", ".env")
    assert code == 2
    assert "of.sqlite3" in shown
