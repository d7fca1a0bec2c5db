"""What the documents say about a changed model: the commands, the revision and the tests there.

Python is forked for them, so that the libraries are imported already.
"""

import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.forks import forked
from support.programs import LONGEST, said_by

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLUGIN = ("greeter.py", "config.toml", "pyproject.toml")
pytestmark = pytest.mark.timeout(3 * LONGEST)


def page(name: str) -> str:
    """Return the text of a document."""
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the plugin of the README."""
    blocks = dict(BLOCK.findall(page("README.md")))
    for name in PLUGIN:
        (tmp_path / name).write_text(blocks[name], encoding="utf-8")
    return tmp_path


def run(folder: Path, command: str) -> str:
    """Run a command of a document in *folder*; return what it says."""
    name, *arguments = shlex.split(command)
    assert name == "db-manager"
    return said_by(*forked("-m", "observability.commands.cli", *arguments), cwd=folder)


@pytest.mark.parametrize("readme", ["README.md", "README.ru.md"])
def test_the_commands_of_the_readme_change_a_model(folder: Path, readme: str) -> None:
    """The column that it names comes into a table with rows, by the file that it names."""
    commands = re.findall(r"^    (db-manager migrate .*?) +# (.*)$", page(readme), re.MULTILINE)
    assert len(commands) == 2
    for command, _ in commands:  # before the first change
        run(folder, command)
    database = folder / "greeter.sqlite3"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("INSERT INTO greeter__guest (chat_id, visits) VALUES (7, 1)")
    [column] = re.findall(r"`(name: Mapped.*?)`", page(readme))
    plugin = folder / "greeter.py"
    last = "    visits: Mapped[int] = mapped_column(default=0)\n"
    changed = plugin.read_text("utf-8").replace(last, f"{last}    {column}\n")
    plugin.write_text(changed, encoding="utf-8")
    for command, _ in commands:
        run(folder, command)
    [file] = re.findall(r"\S+/0002\S+\.py", commands[0][1])
    assert (folder / file).is_file()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT * FROM greeter__guest").fetchall() == [(7, 1, "")]


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_tests_of_the_page_pass(
    database: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    """With the revision of the page about migrations, in the file that its command writes."""
    url = "sqlite://"
    if database == "postgres":
        admin: URL = request.getfixturevalue("postgres_admin")
        url = admin.render_as_string(hide_password=False)
    code = dict(BLOCK.findall(page("docs/testing.md")))["test_migrations.py"]
    (folder / "test_migrations.py").write_text(code, encoding="utf-8")
    run(folder, "db-manager migrate revision")
    [empty] = re.findall(
        r"`(db-manager migrate revision \S+ --empty .*?)`", page("docs/migrations.md")
    )
    said = run(folder, empty)
    [(name, code)] = BLOCK.findall(page("docs/migrations.md"))
    revision = folder / "migrations" / "greeter" / name
    assert f"{revision}: written" in said
    revision.write_text(code, encoding="utf-8")
    tests = forked("-W", "error", "-m", "pytest", "-p", "no:cacheprovider")
    assert "2 passed" in said_by(*tests, cwd=folder, SANDBOX_URL=url, PYTHONPATH=str(folder))
