"""The page on moving a bot: its bot runs half-way, a forgotten step gives the error shown.

Python is forked for its programs, so that the libraries are imported already.
"""

import asyncio
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy.engine import URL
from support.forks import forked
from support.programs import LONGEST, polling, said_by

import db_manager
from db_manager.testing import Databases, Sandbox
from lifecycle import Application, EventBus
from lifecycle.testing import BotApiServer, LocalTelegram

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = dict(BLOCK.findall(PAGE))
ERRORS = dict(re.findall(r"<!-- forgotten: (.*?) -->\n\n```text\n(.*?)\n```", PAGE))
pytestmark = pytest.mark.timeout(2 * LONGEST)

Make = Callable[..., ModuleType]


@pytest.fixture
async def sandbox(event_bus: EventBus) -> AsyncIterator[Sandbox]:
    """A new SQLite database, with the tables of the models that there are by now: none."""
    databases = Databases("sqlite://")
    async with Sandbox.open(databases, event_bus) as opened:
        yield opened
    await databases.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page, to work in."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(f"# {name}\n{code}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    """Imports the bot of the page, with each pair of texts replaced."""
    tables = set(db_manager.Base.metadata.tables)

    def imported(*changes: tuple[str, str]) -> ModuleType:
        code = (folder / "shop.py").read_text(encoding="utf-8")
        for old, new in changes:
            assert code.count(old) == 1, old
            code = code.replace(old, new)
        (folder / "shop.py").write_text(code, encoding="utf-8")
        module = ModuleType("shop")
        module.__file__ = str(folder / "shop.py")
        sys.modules["shop"] = module  # where SQLAlchemy looks names up
        exec(compile(code, "shop.py", "exec"), vars(module))  # noqa: S102 -- the page's own code
        return module

    yield imported
    sys.modules.pop("shop", None)
    for name in set(db_manager.Base.metadata.tables) - tables:
        db_manager.Base.metadata.remove(db_manager.Base.metadata.tables[name])


async def error_of(work: Awaitable[Any]) -> str:
    """Return the first line of the error with which *work* ends, as a traceback shows it."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 -- it is compared with the page
        await work
    error = raised.value
    return f"{type(error).__name__}: {error}".partition("\n")[0]


#: Per forgotten step what it changes in the bot of the page, and what is said to it then.
FORGOTTEN: dict[str, tuple[list[tuple[str, str]], str]] = {
    "the plugin": (
        [
            ("share_the_engine(uow_factory)", "share_the_engine()"),
            ("    sessions.configure(", "    return\n    sessions.configure("),
        ],
        "/order tea",
    ),
    "the engine": ([("@dispatcher.startup()\n", "")], "/orders"),
    "the metadata": ([("metadata = db_manager.Base.metadata", "pass")], "/order tea"),
    "commit": (
        [
            (
                'what=command.args or ""))',
                'what=command.args or ""))\n        await uow.session.commit()',
            )
        ],
        "/order tea",
    ),
    "nested": (
        [('uow.session.add(Order(what=command.args or ""))', "await again(message, uow_factory)")],
        "/order tea",
    ),
    "the middleware that writes": (
        [
            (
                "            return await handler",
                "            await session.flush()\n            return await handler",
            ),
            (
                '["session"] = session',
                '["session"] = session\n            session.add(Order(what="visit"))',
            ),
        ],
        "/order tea",
    ),
    "the last handler": ([("dispatcher.update.outer_middleware(Sessions())", "")], "/orders"),
}


@pytest.mark.parametrize("step", FORGOTTEN)
async def test_a_forgotten_step_gives_the_error_of_the_page(
    step: str, sandbox: Sandbox, telegram: LocalTelegram, make: Make
) -> None:
    """The error that reaches the handler's caller is the one that stands below the step."""
    changes, said = FORGOTTEN[step]
    shop = make(*changes)
    app = sandbox.application(config="config.toml")
    if step == "the plugin":
        app = Application([], config={"app": {"journal": "memory"}})
    await telegram.run(app, shop.dispatcher)
    assert await error_of(telegram.user(7, "Ada").say(said)) == ERRORS[step]


def test_a_forgotten_name_gives_the_error_of_the_page(make: Make) -> None:
    """Models on db_manager.Base with names of their own are refused when they are imported."""
    with pytest.raises(db_manager.TableNameError) as refused:
        make(
            ("class Base(DeclarativeBase):\n", "class Base(db_manager.Base):\n"),
            ("    metadata = db_manager.Base.metadata", "    __abstract__ = True"),
        )
    assert f"TableNameError: {refused.value}" == ERRORS["the names"]


async def test_a_migration_finds_its_table_made_by_the_bot(sandbox: Sandbox, make: Make) -> None:
    """Without create_tables = false the new table is there when the migration makes it."""
    del sandbox
    shop = make()
    app = Application.from_config("config.toml")
    async with app, app.services["db_manager:engine"].begin() as connection:
        created = connection.run_sync(shop.Order.__table__.create)
        assert await error_of(created) == ERRORS["create_tables"]


async def test_a_bot_waits_for_its_migrations(sandbox: Sandbox, make: Make, folder: Path) -> None:
    """With create_tables = false the bot makes no table, and is refused until there is one."""
    del sandbox
    config = folder / "config.toml"
    config.write_text(f"{FILES['config.toml']}create_tables = false\n", encoding="utf-8")
    make()
    app = Application.from_config("config.toml")
    told = await error_of(app.start())
    await app.unload()  # closes the journal
    assert "there is no table orders. Run your migrations" in told


def journals(folder: Path) -> set[str]:
    """Return the names of the journals in a folder."""
    return {path.name for path in folder.glob("lifecycle.*sqlite3")}


#: Holds the journal until its input ends.
OTHER = """
from lifecycle import SqliteJournal
journal = SqliteJournal("lifecycle.sqlite3")
journal.open()
print(flush=True)
input()
"""


async def test_a_second_process_needs_a_name(sandbox: Sandbox, folder: Path) -> None:
    """While another process writes the journal, the bot is refused; with a name it runs."""
    del sandbox
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-c", OTHER)
    other = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    assert other.stdout is not None
    await other.stdout.readline()
    try:
        told = await error_of(Application.from_config("config.toml").start())
        shown = re.sub(r"process \d+", "process 4711", told.replace(str(folder), "/srv/bot"))
        assert shown == ERRORS["the name"]
        async with Application.from_config("config.toml", name="api"):
            assert journals(folder) == {"lifecycle.sqlite3", "lifecycle.api.sqlite3"}
    finally:
        await other.communicate(b"")


def test_each_error_of_the_page_is_seen_here() -> None:
    """No error stands on the page that no test has seen, and the Russian page shows the same."""
    assert ERRORS.keys() == FORGOTTEN.keys() | {"the names", "create_tables", "the name"}
    russian = (ROOT / "docs" / "ru" / "moving.md").read_text(encoding="utf-8")
    assert re.findall(r"```text\n.*?```", russian, re.DOTALL) == re.findall(
        r"```text\n.*?```", PAGE, re.DOTALL
    )


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_bot_half_way_passes_its_test(
    database: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    """Old and new handlers of the page see each other's orders, on both databases."""
    url = "sqlite://"
    if database == "postgres":
        admin: URL = request.getfixturevalue("postgres_admin")
        url = admin.render_as_string(hide_password=False)
    settings = "[tool.pytest.ini_options]\nasyncio_mode = 'auto'\n"
    settings += "asyncio_default_fixture_loop_scope = 'function'\n"
    (folder / "pyproject.toml").write_text(settings, encoding="utf-8")
    command = forked("-m", "pytest", "-p", "no:cacheprovider")
    said = said_by(*command, cwd=folder, SANDBOX_URL=url, PYTHONPATH=str(folder))
    assert "1 passed" in said
    assert not list(folder.glob("shop.sqlite3*"))


async def test_it_goes_on_with_its_data(folder: Path) -> None:
    """Its program, with the database that it had before, answers from it and stops well."""
    with closing(sqlite3.connect(folder / "shop.sqlite3")) as old:
        old.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, what VARCHAR NOT NULL)")
        old.execute("INSERT INTO orders (what) VALUES ('from before')")
        old.commit()
    async with BotApiServer() as telegram:
        ada = telegram.user(7, "Ada")
        command = forked("shop.py")
        async with polling(*command, cwd=folder, telegram=telegram, BOT_TOKEN=telegram.token):
            for said, answered in (("/order tea", "Ordered."), ("/orders", "Orders: 2")):
                await ada.say(said)
                assert (await ada.reply(LONGEST)).text == answered
    with closing(sqlite3.connect(folder / "shop.sqlite3")) as kept:
        assert kept.execute("SELECT what FROM orders").fetchall() == [("from before",), ("tea",)]
