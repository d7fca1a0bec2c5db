"""A plugin that came in a wheel brings its migrations, and they are its authors' to write."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from support.diary import Diary
from support.programs import LONGEST
from uv import find_uv_bin

pytestmark = pytest.mark.timeout(2 * LONGEST)  # each command is a process of its own

_PYPROJECT: Final = """
[project]
name = "guestbook"
version = "{version}"

[build-system]
requires = ["uv_build"]
build-backend = "uv_build"

[tool.uv.build-backend]
module-root = ""
wheel-exclude = [{excluded}]
"""
_PLUGIN: Final = """
from sqlalchemy.orm import Mapped, mapped_column
from db_manager import Base
from lifecycle import Plugin

class Guest(Base):
    __tablename__ = "guestbook__guest"
    id: Mapped[int] = mapped_column(primary_key=True)
    {more}

class Guestbook(Plugin):
    name = "guestbook"
    requires = ("db_manager",)
"""


class Author:
    """Who writes the plugin `guestbook`, beside a bot to try it.

    Args:
        folder: The folder of the project.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bot = Diary(folder)
        self._bot.plugins("guestbook:Guestbook")
        (folder / "guestbook").mkdir()

    def release(self, version: str, more: str = "", excluded: str = "") -> Path:
        """Change the model, write the next migration, and build a wheel."""
        shutil.rmtree(self._folder / "guestbook" / "__pycache__", ignore_errors=True)
        model = self._folder / "guestbook" / "__init__.py"
        model.write_text(_PLUGIN.format(more=more), encoding="utf-8")
        self._bot("migrate", "revision", "guestbook")
        text = _PYPROJECT.format(version=version, excluded=excluded)
        (self._folder / "pyproject.toml").write_text(text, encoding="utf-8")
        uv("build", "--wheel", "--no-build-isolation", "--out-dir", "wheels", cwd=self._folder)
        return self._folder / "wheels" / f"guestbook-{version}-py3-none-any.whl"


def uv(*arguments: str, cwd: Path) -> None:
    """Run uv without a network, with the Python of this test."""
    command = [find_uv_bin(), "--offline", "--quiet", *arguments, "--python", sys.executable]
    subprocess.run(command, check=True, cwd=cwd)


@pytest.fixture
def author(tmp_path: Path) -> Author:
    """The author of a plugin."""
    folder = tmp_path / "author"
    folder.mkdir()
    return Author(folder)


@pytest.fixture
def bot(tmp_path: Path) -> Diary:
    """A bot with a plugin of its own, and the one that it installs."""
    folder = tmp_path / "bot"
    folder.mkdir()
    found = Diary(folder)
    found.plugins("diary:Diary", "guestbook:Guestbook")
    return found


def install(bot: Diary, wheel: Path) -> None:
    """Install a wheel beside the bot, and nothing else that this one had."""
    for old in bot.folder.glob("guestbook*"):
        shutil.rmtree(old)
    uv("pip", "install", "--no-deps", "--target", str(bot.folder), str(wheel), cwd=bot.folder)


@pytest.mark.matrix("M11", load="a plugin from a wheel", result="its migrations apply")
def test_a_wheel_brings_its_migrations(author: Author, bot: Diary) -> None:
    """They are applied, each release its own; what is written is for the bot's own plugin."""
    install(bot, author.release("1.0"))
    assert "guestbook: 0001_first in" in bot("migrate", "upgrade")
    with closing(sqlite3.connect(bot.folder / "diary.sqlite3")) as connection, connection:
        connection.execute("INSERT INTO guestbook__guest (id) VALUES (7)")
    install(bot, author.release("1.1", "name: Mapped[str] = mapped_column(default='Ada')"))
    assert "guestbook        0001_first, pending: 0002_add_name" in bot("migrate", code=1)
    assert "guestbook: 0002_add_name in" in bot("migrate", "upgrade")
    with closing(sqlite3.connect(bot.folder / "diary.sqlite3")) as connection:
        assert connection.execute("SELECT * FROM guestbook__guest").fetchall() == [(7, "Ada")]
    written = bot("migrate", "revision")
    assert "diary/0001_first.py: written" in written
    assert "guestbook" not in written


@pytest.mark.parametrize("empty", [[], ["--empty", "-m", "mine"]], ids=["", "empty"])
@pytest.mark.matrix(
    "M11",
    load="`revision` for a plugin from a wheel",
    result="refused, with the name of the wheel",
)
def test_its_migrations_are_not_ours_to_write(author: Author, bot: Diary, empty: list[str]) -> None:
    """The refusal names what it came with; nothing is written beside the installed files."""
    install(bot, author.release("1.0"))
    there = sorted((bot.folder / "guestbook").rglob("*.py"))
    said = bot("migrate", "revision", "guestbook", *empty, code=2)
    assert "plugin 'guestbook' is not yours to write into: it came with guestbook" in said
    assert sorted((bot.folder / "guestbook").rglob("*.py")) == there


def test_a_wheel_without_them_is_refused(author: Author, bot: Diary) -> None:
    """Else its tables would never be altered again; each command says what the wheel lacks."""
    install(bot, author.release("1.0"))
    bot("migrate", "upgrade")
    install(bot, author.release("1.1", excluded='"**/migrations/**"'))
    assert not (bot.folder / "guestbook" / "migrations").exists()
    for arguments, code in ((["migrate"], 2), (["migrate", "upgrade"], 2), (["check"], 1)):
        said = bot(*arguments, code=code)
        assert "the migrations of 'guestbook': the database is at 0001_first" in said
        assert "Was a wheel built without that folder?" in " ".join(said.split())
