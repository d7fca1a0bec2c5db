"""The kit as users have it: in an installed wheel, in a project that is not ours.

On SQLite a fresh Python runs the tests; on PostgreSQL it is forked, with the libraries imported.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.accounting import connected
from support.forks import forked
from support.programs import ended
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]

PYPROJECT = """
[tool.pytest.ini_options]
asyncio_mode = "{mode}"
asyncio_default_fixture_loop_scope = "function"
filterwarnings = ["error"]
addopts = ["-p", "no:cacheprovider", "--strict-config"]
sandbox_url = "{url}"
"""

BOT = '''
"""A bot that writes down who said what, and knows nothing of tests."""

from aiogram import Dispatcher
from aiogram.types import Message
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, CommitOutcomeUnknownError, UnitOfWorkFactory


class Line(Base):
    __tablename__ = "diary__line"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


dispatcher = Dispatcher()


@dispatcher.message()
async def write(message: Message, uow_factory: UnitOfWorkFactory) -> None:
    try:
        async with uow_factory() as uow:
            uow.session.add(Line(text=message.text or ""))
            uow.after_commit(lambda: message.answer("Written."))
    except CommitOutcomeUnknownError:
        await message.answer("Perhaps.")
    except IntegrityError:
        await message.answer("Not now.")
'''

#: Of a fresh Python: the plugin of pytest imports none of these before a test needs them.
CONFTEST = """
import sys

assert not {"aiogram", "aiohttp", "msgspec", "pydantic", "sqlalchemy"} & sys.modules.keys()
"""

TESTS = """
import pytest
from sqlalchemy import select

import db_manager
from bot import Line, dispatcher

pytestmark = pytest.mark.asyncio

async def test_it_is_the_installed_one():
    assert "installed" in db_manager.__file__

async def lines(sandbox):
    async with sandbox.uow_factory(read_only=True) as uow:
        return list(await uow.session.scalars(select(Line.text)))

@pytest.fixture
async def ada(sandbox, telegram):
    await telegram.run(sandbox.application(), dispatcher)
    return telegram.user(7, "Ada")

@pytest.mark.parametrize("turn", range(3))
async def test_a_line_is_written(ada, sandbox, events, turn):
    await ada.say("Hello")
    assert (await ada.reply()).text == "Written."
    assert await lines(sandbox) == ["Hello"]
    events.assert_sequence("uow.begin", "uow.commit", "uow.close")
    events.assert_none("uow.rollback")
    await events.wait_for("uow.close", outcome="committed", update_id=1)

async def test_a_refused_line(ada, sandbox, faults):
    faults.refuse_commit()
    await ada.say("Hello")
    assert (await ada.reply()).text == "Not now."
    assert await lines(sandbox) == []

async def test_nobody_knows(ada, sandbox, faults):
    faults.lose_commit()
    await ada.say("Hello")
    assert (await ada.reply()).text == "Perhaps."
    assert await lines(sandbox) == ["Hello"]

async def test_that_fails(ada, sandbox, events):
    await ada.say("Hello")
    events.assert_none("uow.commit")

async def test_that_fails_too(telegram, sandbox, events):
    await telegram.run(sandbox.application(), dispatcher)
    await telegram.user(7, "Ada").say("Good-bye")
    assert events.topics == []
"""


def uv(*arguments: str) -> None:
    """Run uv without a network, with the Python of this test."""
    command = [find_uv_bin(), "--offline", "--quiet", *arguments, "--python", sys.executable]
    subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the wheel of this project is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ("build", "--wheel", "--no-build-isolation", "--out-dir", str(folder))
    uv(*build, str(ROOT))
    wheel = next(folder.glob("*.whl"))
    uv("pip", "install", "--no-deps", "--target", str(folder / "installed"), str(wheel))
    return folder / "installed"


def make_project(folder: Path, mode: str, url: str = "") -> Path:
    """Write a bot's project with tests, for a mode of pytest-asyncio."""
    tests = TESTS
    if mode == "strict":
        tests = tests.replace("@pytest.fixture", "@pytest_asyncio.fixture")
        tests = tests.replace("import pytest\n", "import pytest\nimport pytest_asyncio\n")
    files = {
        "pyproject.toml": PYPROJECT.format(mode=mode, url=url),
        "bot.py": BOT,
        "test_bot.py": tests,
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def run(project: Path, installed: Path, *python: str) -> tuple[int, str]:
    """Run the tests of the project; return the exit code and what was printed."""
    temporary = Path(tempfile.mkdtemp(dir=project))
    run = ended(
        *(*python, "-m", "pytest"),
        cwd=project,
        PYTHONPATH=os.pathsep.join([str(installed), str(project)]),
        DATABASE__URL="postgresql+asyncpg://nobody@192.0.2.1/precious",
        TMPDIR=str(temporary),
    )
    assert [path.name for path in temporary.iterdir() if path.name.startswith("sandbox")] == []
    return run.returncode, run.stdout + run.stderr


def check(code: int, shown: str) -> None:
    """Check that all went as the project's tests mean it: two fail, and say why."""
    assert code == 1, shown
    assert "2 failed, 6 passed" in shown, shown
    assert "error" not in shown.splitlines()[-1]
    assert re.search(r"E +AssertionError: 'uow.commit' must not come; the story was:", shown)
    assert re.search(r"uow\.commit .*  <-- unwanted", shown)
    assert re.search(
        r"-+ Events -+\n +1 plugin.loading .*\n( .*\n)+-+ Telegram -+\n.*Good-bye", shown
    )


def test_a_project_tests_its_bot_on_sqlite(tmp_path: Path, installed: Path) -> None:
    """Without any setting sandboxes are SQLite files, and none is left."""
    project = make_project(tmp_path, "auto")
    (project / "conftest.py").write_text(CONFTEST)
    check(*run(project, installed, sys.executable))
    assert not list(project.glob("*.sqlite3*"))


def test_projects_run_at_the_same_time_on_postgresql(
    tmp_path: Path, installed: Path, postgres_admin: URL
) -> None:
    """Two runs on one server pass side by side, and leave no database."""
    url = postgres_admin.render_as_string(hide_password=False)
    project = make_project(tmp_path, "strict", url)
    before = asyncio.run(databases(postgres_admin))
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(run, project, installed, *forked()) for _ in range(2)]
    for each in runs:
        check(*each.result())
    assert asyncio.run(databases(postgres_admin)) == before


async def databases(server: URL) -> set[str]:
    """Return the names of all databases of a server."""
    async with connected(server) as admin:
        return {row[0] for row in await admin.fetch("SELECT datname FROM pg_database")}
