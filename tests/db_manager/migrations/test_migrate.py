"""The command `db-manager migrate`, as the author of a plugin uses it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.diary import Diary
from support.programs import LONGEST

pytestmark = pytest.mark.timeout(2 * LONGEST)  # each command is a process of its own


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    """A folder with a bot."""
    return Diary(tmp_path)


def execute(diary: Diary, *statements: str) -> None:
    """Run *statements* on the database of the bot."""
    with closing(sqlite3.connect(diary.folder / "diary.sqlite3")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_two_commands_change_a_model(diary: Diary) -> None:
    """`revision` and `upgrade`, and what is said before, between and after them."""
    assert "no migrations; `migrate revision diary` writes the first" in diary("migrate")
    written = diary("migrate", "revision")
    assert "diary/0001_first.py: written; read it, and commit it" in written
    assert diary("migrate", code=1) == "diary            no revision, pending: 0001_first\n"
    assert not (diary.folder / "diary.sqlite3").exists()  # it was only asked
    assert "diary: 0001_first in" in diary("migrate", "upgrade")
    assert diary("migrate") == "diary            0001_first\n"
    assert diary("migrate", "revision") == "diary: nothing to do\n"
    diary.models("text: Mapped[str] = mapped_column(default='')")
    assert "0002_add_text.py: due" in diary("migrate", "revision", "--check", code=1)
    assert "0002_add_text.py: written" in diary("migrate", "revision", "diary")
    assert "diary: 0002_add_text in" in diary("migrate", "upgrade", "diary")
    assert diary("migrate", "upgrade") == "db_manager: nothing is pending\n"


def test_looking_makes_no_file(tmp_path: Path) -> None:
    """Neither where the URL is one of SQLite's own, with options."""
    diary = Diary(tmp_path, url="sqlite+aiosqlite:///file:diary.sqlite3?mode=rwc&uri=true")
    diary("migrate", "revision")
    before = set(tmp_path.iterdir())
    assert diary("migrate", code=1) == "diary            no revision, pending: 0001_first\n"
    assert set(tmp_path.iterdir()) == before


def test_there_is_a_way_back(diary: Diary) -> None:
    """And what the database is at can be said without doing anything."""
    diary("migrate", "revision")
    diary("migrate", "upgrade")
    diary("migrate", "revision", "--empty", "-m", "Fill in")
    diary("migrate", "upgrade")
    assert diary("migrate", "downgrade", "diary", "0001") == "diary: at 0001_first\n"
    assert diary("migrate", code=1) == "diary            0001_first, pending: 0002_fill_in\n"
    assert diary("migrate", "stamp", "diary", "head") == "diary: at 0002_fill_in\n"
    assert diary("migrate", "downgrade", "diary", "base") == "diary: at no revision\n"


def test_what_does_not_fit_is_named(diary: Diary) -> None:
    """With the names that would fit, and exit code 2."""
    diary("migrate", "revision")
    for arguments, said in {
        ("upgrade", "dairy"): "plugin 'dairy' has no migrations; those that have: diary",
        ("revision", "dairy"): "plugin 'dairy' has no tables; those that have: diary",
        ("stamp", "diary", "0007"): "no revision begins so; there are 0001_first",
        ("--config", "no.toml"): "no.toml: there is no such file",
        ("--plugin", "other"): "there is no database 'other'; there are: db_manager",
        ("revision", "--scratch", "x"): "--scratch: [database] url: cannot be read; write driver",
    }.items():
        assert said in diary("migrate", *arguments, code=2)
    diary.plugins("diary:Dairy")  # its models would be missing
    assert "'diary:Dairy' is neither an entry point" in diary("migrate", code=2)


def test_an_empty_one_is_for_one_plugin(diary: Diary) -> None:
    """Where there are several it has to be named."""
    other = (diary.folder / "diary.py").read_text().replace("diary__", "other__")
    (diary.folder / "other.py").write_text(other.replace('"diary"', '"other"'))
    diary.plugins("diary:Diary", "other:Diary")
    said = diary("migrate", "revision", "--empty", code=2)
    assert "--empty: name the plugin: diary, other" in said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def upgrade(:\n", "0002_x of 'diary': SyntaxError: invalid syntax (0002_x.py, line 4)"),
        (
            "def upgrade():\n    raise RuntimeError('first fill in 3 titles')\n",
            "RuntimeError: first fill in 3 titles",
        ),
        (
            "def upgrade():\n    op.execute('INSERT INTO diary__note VALUES (1), (1)')\n",
            "start again\nIntegrityError: UNIQUE constraint failed: diary__note.id",
        ),
    ],
    ids=["syntax", "raises", "statement"],
)
def test_a_failing_one_is_told_in_its_own_words(diary: Diary, code: str, said: str) -> None:
    """On the author's terminal, with exit code 2; a log has no text that may hold rows."""
    diary("migrate", "revision")
    diary.revision("0002_x", code, "0001_first")
    assert said in diary("migrate", "upgrade", code=2)


def test_what_differs_at_the_last_revision_is_told(diary: Diary) -> None:
    """A table that was there before its first revision keeps what it had."""
    execute(diary, "CREATE TABLE diary__note (id INTEGER NOT NULL PRIMARY KEY)")
    diary.models("more: Mapped[int | None]")
    diary("migrate", "revision")
    for said in (diary("migrate", "upgrade"), diary("migrate")):
        assert "diary is at its last revision, and differs from its models:" in said
        assert "! diary__note has no column more; ALTER TABLE diary__note ADD COLUMN more I" in said
    execute(diary, "ALTER TABLE diary__note ADD COLUMN more INTEGER")
    assert diary("migrate") == "diary            0001_first\n"


@pytest.mark.matrix(
    "M14",
    load="a plugin that was removed",
    result="check does not notice; its tables are listed as nobody's",
)
def test_tables_of_a_plugin_that_was_removed_are_nobodys(diary: Diary) -> None:
    """They are listed and left alone, and neither `check` nor a start notices that it is gone."""
    diary("migrate", "revision")
    execute(diary, "CREATE TABLE guests__visit (id INTEGER)", "CREATE TABLE legacy (id INTEGER)")
    execute(diary, "CREATE TABLE guests__alembic_version (version_num VARCHAR(32))")
    execute(diary, "INSERT INTO guests__alembic_version VALUES ('0007_last')")
    nobodys = (
        "guests           nobody's: guests__alembic_version, guests__visit; is its plugin in "
        "[app] plugins?\n"
    )
    assert diary("migrate", "upgrade").endswith(nobodys)
    assert diary("migrate") == f"diary            0001_first\n{nobodys}"
    checked = diary("check")
    assert "legacy" not in checked
    assert "guests" not in checked
    for verb in ("downgrade", "stamp"):
        said = diary("migrate", verb, "guests", "base", code=2)
        assert "plugin 'guests' has no migrations; those that have: diary" in said
    with closing(sqlite3.connect(diary.folder / "diary.sqlite3")) as connection:
        found = connection.execute("SELECT version_num FROM guests__alembic_version").fetchall()
    assert found == [("0007_last",)]


def test_printed_sql_makes_what_an_upgrade_makes(diary: Diary) -> None:
    """Also the tables of plugins without migrations, once; the file is not made by printing."""
    other = (diary.folder / "diary.py").read_text().replace("diary__", "other__")
    (diary.folder / "other.py").write_text(other.replace('"diary"', '"other"'))
    diary.plugins("diary:Diary", "other:Diary")
    diary("migrate", "revision", "diary")
    printed = diary("migrate", "upgrade", "--sql")
    assert not (diary.folder / "diary.sqlite3").exists()
    with closing(sqlite3.connect(diary.folder / "diary.sqlite3")) as connection:
        connection.executescript(printed)
        assert connection.execute("SELECT * FROM other__note").fetchall() == []
    assert diary("migrate").startswith("diary            0001_first\n")
    assert diary("migrate", "upgrade", "--sql") == ""
    diary("migrate", "revision", "diary", "--empty")
    assert "other__note" not in diary("migrate", "upgrade", "--sql")


def test_a_batch_on_sqlite_cannot_be_printed(diary: Diary) -> None:
    """SQLite alters a table by making it anew, for which it must be looked at: an error says so."""
    diary.models("text: Mapped[str]")
    diary("migrate", "revision")
    diary("migrate", "upgrade")
    diary.models("text: Mapped[int]")
    diary("migrate", "revision")
    said = diary("migrate", "upgrade", "--sql", code=2)
    assert "it cannot be printed, only run: CommandError: This operation cannot proceed in" in said
    assert "batch mode with dialect sqlite requires a live database" in said
    assert "BEGIN" not in said  # half of it would be run by whoever pipes it
