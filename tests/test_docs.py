"""The documents say what the code says, and the code in them runs."""

import ast
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy.engine import URL
from support.accounting import connected
from support.forks import forked
from support.postgres import Databases
from support.programs import LONGEST, local, running, said_by

from db_manager import Base, DatabaseConfig, DatabasePlugin
from lifecycle import Application
from lifecycle.config import AppConfig
from lifecycle.testing import BotApiServer
from observability.config import ObservabilityConfig

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
#: What somebody says to each bot of a program, and what it answers.
PROGRAMS = {
    "bot.py": ("/note milk", "Noted.", 1),
    "existing.py": ("20 + 22", "It is 42.", 1),
    "several.py": ("hello", "At most 42.", 2),
}
#: The one for which a fresh Python is started; for the others one is forked.
FRESH = "existing.py"
BLOCKS = {
    "README.md": {
        *("existing.py", "unit.py", "greeter.py", "config.toml", "test_greeter.py"),
        "pyproject.toml",
    },
    "docs/start.md": {"bot.py"},
    "docs/aiogram.md": {"several.py"},
    "docs/delivery.md": {  # run by tests/db_manager/delivery
        *("config.toml", "diary.py", "survey.py", "news.py", "async with uow_factory() as uow:"),
        *("broker.toml", "orders.py"),
        'app.router.add_post("/hook", delivery.webhook(bot, secret_token="..."))',
    },
    "docs/several.md": {
        *("analytics.py", "shop.py", "config.toml", "test_shop.py", "replica.toml", "report.py")
    },
    "docs/testing.md": {"shop.py", "test_shop.py", "test_diary.py", "test_migrations.py"},
    "docs/migrations.md": {"0002_count_first_visits.py"},  # run by test_changing.py
    "docs/moving.md": {"shop.py", "config.toml", "test_shop.py"},  # run by test_moving.py
}
#: Pages that say the same in both languages, the English one first.
PAGES = {
    "README.md": "README.ru.md",
    "docs/start.md": "docs/ru/start.md",
    "docs/aiogram.md": "docs/ru/aiogram.md",
    "docs/configuration.md": "docs/ru/configuration.md",
    "docs/testing.md": "docs/ru/testing.md",
    "docs/delivery.md": "docs/ru/delivery.md",
    "docs/migrations.md": "docs/ru/migrations.md",
    "docs/moving.md": "docs/ru/moving.md",
    "docs/recipes.md": "docs/ru/recipes.md",
}


def blocks(document: Path) -> dict[str, str]:
    """Return the python and toml blocks of a document by the name in their first line."""
    text = document.read_text(encoding="utf-8")
    found = re.findall(r"^```(?:python|toml)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return {code.partition("\n")[0].removeprefix("# "): code for code in found}


SEVERAL = blocks(ROOT / "docs" / "several.md")
#: Pages whose blocks are files of a folder of their own.
APART = {
    *("docs/delivery.md", "docs/several.md", "docs/testing.md", "docs/moving.md"),
    "docs/migrations.md",
}
README = {
    name: code for page in BLOCKS if page not in APART for name, code in blocks(ROOT / page).items()
}


def imported(path: Path) -> ModuleType:
    """Import a file as a module, as `import` in its folder would."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def generator() -> ModuleType:
    """Import the program that writes the generated parts."""
    return imported(ROOT / "docs" / "generate.py")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the reader's own, with the blocks of the documents as files, to work in."""
    for name, code in README.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    modules, tables = set(sys.modules), set(Base.metadata.tables)
    yield tmp_path
    for name in README:
        if name.removesuffix(".py") not in modules:
            sys.modules.pop(name.removesuffix(".py"), None)
    for name in set(Base.metadata.tables) - tables:
        Base.metadata.remove(Base.metadata.tables[name])


@pytest.mark.parametrize("name", generator().DOCUMENTS)
def test_generated_parts_are_up_to_date(name: str) -> None:
    """What documents say of events, keys and states is what `docs/generate.py` writes."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "<!-- generated: " in text
    assert generator().rendered(text) == text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """A link of a document to a file of the project leads to one."""
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_has_a_test(name: str) -> None:
    """A python or toml block has a name in its first line, and the tests here run it."""
    assert blocks(ROOT / name).keys() == BLOCKS[name]


@pytest.mark.parametrize(("english", "russian"), PAGES.items())
def test_a_page_is_the_same_in_both_languages(english: str, russian: str) -> None:
    """The Russian page has the same code, up to comments, and the same rows in its tables."""
    theirs = blocks(ROOT / russian)
    ours = blocks(ROOT / english)
    assert theirs.keys() == ours.keys()
    for name, code in ours.items():
        if name.endswith(".toml"):
            assert tomllib.loads(theirs[name]) == tomllib.loads(code)
        else:
            assert ast.dump(ast.parse(theirs[name])) == ast.dump(ast.parse(code))
    assert rows(ROOT / russian) == rows(ROOT / english)


def rows(document: Path) -> list[tuple[str, str]]:
    """Return the rows of the tables of a document whose first cell is code, with the defaults."""
    text = document.read_text(encoding="utf-8")
    return re.findall(r"^\| (`[^|]*`) \| ((?:`[^|]*` \||\|)?)", text, re.MULTILINE)


def test_every_recipe_is_on_its_page() -> None:
    """Each file of examples/recipes has a row."""
    named = {name.strip("`/") for name, _ in rows(ROOT / "docs" / "recipes.md")}
    there = {path.name for path in (ROOT / "examples" / "recipes").iterdir()}
    assert there - {"__init__.py", "__pycache__"} <= named


def test_both_languages_name_every_topic() -> None:
    """The Russian page of events has the topics of the English one, in the same order."""
    english = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- generated: topics -->.*?<!-- end -->", english, re.DOTALL)
    assert table is not None
    topics = re.findall(r"^\| (`[^|]*`) \|", table[0], re.MULTILINE)
    assert [topic for topic, _ in rows(ROOT / "docs" / "ru" / "events.md")] == topics


def test_the_page_of_the_configuration_names_every_key() -> None:
    """All keys are there, and the keys of [app], which are not generated, with their defaults."""
    named = rows(ROOT / "docs" / "configuration.md")
    defaults = AppConfig()
    assert named[: len(AppConfig.__struct_fields__)] == [
        ("`plugins`", "`[]` |"),
        ("`name`", ""),
        ("`journal`", '`"lifecycle.sqlite3"` |'),
        ("`grace`", f"`{defaults.grace:g}` |"),
        ("`drain`", f"`{defaults.drain:g}` |"),
    ]
    models = (AppConfig.__struct_fields__, DatabaseConfig.model_fields)
    keys = [key for fields in (*models, ObservabilityConfig.model_fields) for key in fields]
    assert [key.strip("`") for key, _ in named] == keys


def test_the_short_bot_is_short() -> None:
    """The bot in twenty lines has twenty lines, and the existing bot gets five."""
    lines = [line for line in README["bot.py"].splitlines()[1:] if line]
    assert len(lines) == 20
    numbered = re.findall(r"# (\d)$", README["existing.py"], re.MULTILINE)
    assert numbered == ["1", "2", "3", "4", "5"]
    unnumbered = re.sub(r".*# \d\n", "", README["existing.py"])
    assert "db_manager" not in unnumbered
    assert "lifecycle" not in unnumbered


@pytest.mark.parametrize("name", PROGRAMS)
async def test_programs_of_the_readme_answer(name: str, folder: Path) -> None:
    """The bots of the README, run as they are against a local Telegram, answer and stop."""
    said, answered, number = PROGRAMS[name]
    async with AsyncExitStack() as stack:
        servers = [BotApiServer(f"{40 + each}:local") for each in range(number)]
        for each in servers:
            await stack.enter_async_context(each)
        tokens = [each.token for each in servers]
        given = {"BOT_TOKEN": tokens[0], "BOT_TOKENS": " ".join(tokens), **local(*servers)}
        command = (sys.executable, name) if name == FRESH else forked(name)
        program = await stack.enter_async_context(running(*command, cwd=folder, **given))
        for telegram in servers:
            ada = telegram.user(7, "Ada")
            await ada.say(said)
            assert (await ada.reply(LONGEST)).text == answered
        program.terminate()
        await program.ends()
    assert (folder / "bot.sqlite3").exists()


async def test_the_unit_of_the_readme_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The snippet on units of work does what its comments say, on SQLite."""
    async with Application([DatabasePlugin]) as app:
        await imported(folder / "unit.py").example(app.services["db_manager:uow_factory"])
    assert capsys.readouterr().out == "kept\n"


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_plugin_of_the_readme_passes_its_tests(
    database: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    """The plugin, its configuration and its tests, copied from the README, work together."""
    url = "sqlite+aiosqlite://"
    if database == "postgres":
        admin: URL = request.getfixturevalue("postgres_admin")
        url = admin.render_as_string(hide_password=False)
    assert "2 passed" in said_by_pytest(folder, url)
    assert not list(folder.glob("*.sqlite3*"))


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_two_databases_of_the_page_pass_their_test(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The two databases of docs/several.md, with their plugin and test, work as they are."""
    url = "sqlite+aiosqlite://"
    if database == "postgres":
        admin: URL = request.getfixturevalue("postgres_admin")
        url = admin.render_as_string(hide_password=False)
    for name, code in {**SEVERAL, "pyproject.toml": README["pyproject.toml"]}.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    assert "1 passed" in said_by_pytest(tmp_path, url)
    assert not list(tmp_path.glob("*.sqlite3*"))


async def test_the_report_of_the_page_reads_from_the_replica(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of docs/several.md is answered by the replica that its configuration names."""
    (tmp_path / "report.py").write_text(SEVERAL["report.py"], encoding="utf-8")
    urls = [await databases.create() for _ in range(2)]
    for url, name in zip(urls, ("URL", "REPLICA"), strict=True):
        monkeypatch.setenv(f"DATABASE__{name}", url.render_as_string(hide_password=False))
    async with connected(urls[1]) as connection:
        await connection.execute("CREATE TABLE shop__order AS SELECT 1 AS id")
    config = {**tomllib.loads(SEVERAL["replica.toml"]), "app": {"journal": "memory"}}
    async with Application([DatabasePlugin], config=config) as app:
        report = imported(tmp_path / "report.py").report
        assert await report(app.services["db_manager:uow_factory"]) == 1
    for url in urls:
        await databases.drop(url)


def said_by_pytest(folder: Path, sandbox_url: str) -> str:
    """Return what pytest says of the tests in a folder, which pass."""
    command = forked("-W", "error", "-m", "pytest", "-p", "no:cacheprovider")
    return said_by(*command, cwd=folder, SANDBOX_URL=sandbox_url, PYTHONPATH=str(folder))


def test_the_shop_of_the_page_of_tests_passes_its_tests(tmp_path: Path) -> None:
    """The conversation with the shop, copied from the page, is held as it stands there."""
    files = blocks(ROOT / "docs" / "testing.md")
    for name in ("shop.py", "test_shop.py"):
        (tmp_path / name).write_text(files[name], encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(README["pyproject.toml"], encoding="utf-8")
    assert "2 passed" in said_by_pytest(tmp_path, "sqlite://")


def test_the_diary_of_the_page_of_messages_passes_its_tests(tmp_path: Path) -> None:
    """The tests of the page of tests are those of the bot of the page of messages."""
    files = {**blocks(ROOT / "docs" / "delivery.md"), **blocks(ROOT / "docs" / "testing.md")}
    for name in ("config.toml", "diary.py", "survey.py", "news.py", "test_diary.py"):
        (tmp_path / name).write_text(files[name], encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(README["pyproject.toml"], encoding="utf-8")
    assert "3 passed" in said_by_pytest(tmp_path, "sqlite://")


def test_the_picture_shows_what_the_bot_does(tmp_path: Path) -> None:
    """The pictures are what the demo's bot does now, but for the times."""
    said_by(*forked(ROOT / "docs" / "picture.py", tmp_path), cwd=tmp_path)
    drawn = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    there = {path.name: path.read_text("utf-8") for path in ROOT.glob("docs/pictures/demo-*")}
    assert len(drawn) == 4
    assert {name: re.sub(r"\d+", "", text) for name, text in drawn.items()} == {
        name: re.sub(r"\d+", "", text) for name, text in there.items()
    }


def test_a_whole_test_is_ten_lines() -> None:
    """The first test in the README, with database and reply, has at most ten lines."""
    test = README["test_greeter.py"].split("\n\n\n")[1]
    assert len(test.splitlines()) <= 10


def test_config_toml_is_the_example_it_claims_to_be() -> None:
    """Each key of config.toml has a comment line above it, is known, and says the default."""
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    keys = re.findall(r"^(# .*)?\n?^(\w+) = ", text, re.MULTILINE)
    assert len(keys) > 8
    assert [key for comment, key in keys if not comment] == []
    config = tomllib.loads(text)
    for key, value in config["database"].items():
        default = DatabaseConfig.model_fields[key].get_default()
        assert value == ("bot.sqlite3" if key == "database" else default)
    ObservabilityConfig.model_validate(config["observability"])
    for key in re.findall(r"^# (\w+) = ", text, re.MULTILINE):
        assert key in DatabaseConfig.model_fields
