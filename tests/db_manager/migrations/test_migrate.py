"""The command `db-manager migrate`, as the author of a plugin uses it."""

from pathlib import Path

import pytest
from support.forks import forked
from support.programs import LONGEST, said_by

pytestmark = pytest.mark.timeout(2 * LONGEST)  # each command is a process of its own
MODELS = """
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
CONFIG = """
[app]
plugins = ["db_manager", "diary:Diary"]

[database]
database = "diary.sqlite3"
"""


class Shell:
    """Runs the command in a folder, each time in a process of its own, which is forked.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "config.toml").write_text(CONFIG, encoding="utf-8")
        self.models("")

    def models(self, more: str) -> None:
        """Let the model have *more*."""
        (self.folder / "diary.py").write_text(MODELS.format(more=more), encoding="utf-8")

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run `db-manager migrate`; return what it says, after the exit code was *code*."""
        program = forked("-m", "observability.commands.cli", "migrate", *arguments)
        said = said_by(*program, cwd=self.folder, code=code)
        assert "Traceback" not in said
        return said


@pytest.fixture
def migrate(tmp_path: Path) -> Shell:
    """The command, in a folder with a bot."""
    return Shell(tmp_path)


def test_two_commands_change_a_model(migrate: Shell) -> None:
    """`revision` and `upgrade`, and what is said before, between and after them."""
    assert "no migrations; `migrate revision diary` writes the first" in migrate()
    assert "diary/0001_first.py: written; read it, and commit it" in migrate("revision")
    assert migrate(code=1) == "diary            no revision, pending: 0001_first\n"
    assert "diary: 0001_first in" in migrate("upgrade")
    assert migrate() == "diary            0001_first\n"
    assert migrate("revision") == "diary: nothing to do\n"
    migrate.models("text: Mapped[str] = mapped_column(default='')")
    assert "0002_add_text.py: due" in migrate("revision", "--check", code=1)
    assert "0002_add_text.py: written" in migrate("revision", "diary")
    assert "diary: 0002_add_text in" in migrate("upgrade", "diary")
    assert migrate("downgrade", "diary", "0001") == "diary: at 0001\n"
    assert migrate(code=1) == "diary            0001_first, pending: 0002_add_text\n"
    assert migrate("stamp", "diary", "head") == "diary: at head\n"
    assert migrate("upgrade") == "db_manager: nothing is pending\n"


def test_one_of_ones_own_has_a_name(migrate: Shell) -> None:
    """`--empty` writes a revision to fill in, for rows for example."""
    assert "0001_first.py" in migrate("revision")
    assert "0002_fill_in_titles.py: written; fill it in" in migrate(
        "revision", "diary", "--empty", "-m", "Fill in titles"
    )
    assert "diary: 0002_fill_in_titles in" in migrate("upgrade")


def test_what_does_not_fit_is_named(migrate: Shell) -> None:
    """With the names that would fit, and exit code 2."""
    migrate("revision")
    for arguments, said in {
        ("upgrade", "dairy"): "plugin 'dairy' has no migrations; those that have: diary",
        ("revision", "dairy"): "plugin 'dairy' has no tables; those that have: diary",
        ("stamp", "diary", "0007"): "no revision begins so; there are 0001_first",
        ("--config", "no.toml"): "no.toml: there is no such file",
        ("--plugin", "other"): "there is no database 'other'; there are: db_manager",
    }.items():
        assert said in migrate(*arguments, code=2)


def test_sql_is_printed_and_not_run(migrate: Shell) -> None:
    """`--sql` says what would be done from where the database is."""
    migrate("revision")
    printed = migrate("upgrade", "--sql")
    assert "CREATE TABLE IF NOT EXISTS diary__note" in printed
    assert "INSERT INTO diary__alembic_version (version_num) VALUES ('0001_first')" in printed
    assert migrate(code=1) == "diary            no revision, pending: 0001_first\n"


def test_a_batch_on_sqlite_cannot_be_printed(migrate: Shell) -> None:
    """SQLite alters a table by making it anew, for which it must be looked at: an error says so."""
    migrate.models("text: Mapped[str]")
    migrate("revision")
    migrate("upgrade")
    migrate.models("text: Mapped[int]")
    migrate("revision")
    said = migrate("upgrade", "--sql", code=2)
    assert "batch mode with dialect sqlite requires a live database" in said
