"""A folder with a bot of one plugin, and the command `db-manager` in it."""

import os
from pathlib import Path
from typing import Final

from support.forks import forked
from support.programs import said_by

_MODELS: Final = """
from sqlalchemy.orm import Mapped, mapped_column
from db_manager import Base
from lifecycle import Plugin

class Note(Base):
    __tablename__ = "diary__note"
    id: Mapped[int] = mapped_column(primary_key=True)
    {more}

class Diary(Plugin):
    name = "diary"
    requires = ("db_manager",)
"""
_CONFIG: Final = """
[app]
plugins = ["db_manager", {plugins}]
journal = "memory"

[database]
{database}
"""


class Diary:
    """A bot, and the command `db-manager` beside it, each time in a forked process.

    Args:
        folder: A folder for it.
        url: Where its database is; a file beside it by default.
    """

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self._changes = 0
        self._database = f"url = '{url}'" if url else "database = 'diary.sqlite3'"
        self.plugins("diary:Diary")
        self.models("")

    def plugins(self, *names: str, more: str = "") -> None:
        """Let config.toml name these plugins, beside that of the database."""
        quoted = ", ".join(f'"{name}"' for name in names)
        text = _CONFIG.format(plugins=quoted, database=f"{self._database}\n{more}")
        (self.folder / "config.toml").write_text(text, encoding="utf-8")

    def models(self, more: str) -> None:
        """Let the model have *more*."""
        file = self.folder / "diary.py"
        file.write_text(_MODELS.format(more=more), encoding="utf-8")
        self._changes += 1
        os.utime(file, (self._changes, self._changes))  # else bytecode of this second may be taken

    def revision(self, name: str, code: str, after: str) -> Path:
        """Write a revision by hand."""
        file = self.folder / "migrations" / "diary" / f"{name}.py"
        head = f"from alembic import op\nrevision = {name!r}\ndown_revision = {after!r}\n"
        file.write_text(head + code, encoding="utf-8")
        return file

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run `db-manager`; return what it says, after the exit code was *code*."""
        said = said_by(
            *forked("-m", "observability.commands.cli", *arguments), cwd=self.folder, code=code
        )
        assert "Traceback" not in said
        return said
