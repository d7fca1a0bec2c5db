"""The bot that `db-manager init` writes: it is whole, its tests pass, it runs as it is deployed.

`test_it_runs_beside_its_files` starts a fresh Python for it; the other tests fork one, in which the
libraries are imported already.
"""

import asyncio
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy.engine import URL
from support.forks import forked
from support.ports import free_port
from support.programs import LONGEST, ended, polling, said_by
from uv import find_uv_bin

from db_manager.new_bot.new_files import TEMPLATE, template_files
from lifecycle.testing import BotApiServer
from observability.commands.cli import main

ROOT = Path(__file__).parents[2]
COMMANDS = "observability.commands.cli"
pytestmark = pytest.mark.timeout(2 * LONGEST)


def init(*arguments: str | Path) -> tuple[int, str, str]:
    """Run the command in this process; return exit code, output and errors."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        code = main(["init", *map(str, arguments)])
    return code, output.getvalue(), errors.getvalue()


def entries(folder: Path) -> dict[str, bytes | None]:
    """Return all that is in a folder: files with their content, folders with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new bot."""
    made = tmp_path / "my bot"
    assert init(made)[0] == 0
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this project."""
    made = tmp_path_factory.mktemp("built")
    for kind in ("--wheel", "--sdist"):
        build = (kind, "--no-build-isolation", "--out-dir", str(made), str(ROOT))
        said_by(find_uv_bin(), "--offline", "build", *build, "--python", sys.executable, cwd=made)
    return made


def test_all_of_it_is_written_and_the_next_steps_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing folder is made, each file is that of the template, the steps begin with cd."""
    monkeypatch.chdir(tmp_path)
    code, said, _ = init("a/my bot")
    assert code == 0
    assert entries(tmp_path / "a" / "my bot") == entries(TEMPLATE)
    steps = [line.strip() for line in said.splitlines() if line.startswith("    ")]
    assert steps[0] == "cd 'a/my bot'"
    assert shlex.split(steps[1]) == [
        *("pip", "wheel", "--no-deps", "--wheel-dir", "wheels", str(ROOT))
    ]
    assert steps[-1] == "python -m bot"


def test_the_folder_may_be_the_one_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an argument it is the working directory; a repository and a venv may be there."""
    for there in (".git", ".venv", "env"):
        (tmp_path / there).mkdir()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    monkeypatch.chdir(tmp_path)
    code, said, _ = init()
    assert code == 0
    assert "cd " not in said
    assert (tmp_path / "bot" / "notes.py").exists()


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (["README.md", ".gitignore"], "has these already: .gitignore, README.md; nothing was"),
        (["bot/__main__.py"], "has these already: bot/__main__.py; nothing was written"),
        (["main.py"], "is not empty: main.py; nothing was written"),
        (["g", "f", "e", "d", "c", "b", "a"], "is not empty: a, b, c, d, e and 2 more; nothing"),
    ],
)
def test_nothing_is_overwritten(tmp_path: Path, there: list[str], said: str) -> None:
    """A folder with something in it stays as it is, and the error names what there is."""
    for name in there:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine", encoding="utf-8")
    before = entries(tmp_path)
    code, output, error = init(tmp_path)
    assert (code, output) == (2, "")
    assert f"{tmp_path} {said}" in error
    assert "db-manager init FOLDER" in error
    assert entries(tmp_path) == before


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    """A link in the place of a file counts as that file, wherever it leads."""
    (tmp_path / ".gitignore").symlink_to(tmp_path / "elsewhere")
    assert "has these already: .gitignore;" in init(tmp_path)[2]
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("below", [".", "below", "far/below"])
def test_a_file_is_no_folder(tmp_path: Path, below: str) -> None:
    """A file in the place of the folder, or above it, is named."""
    (tmp_path / "file").touch()
    code, _, error = init(tmp_path / "file" / below)
    assert (code, error) == (
        2,
        f"db-manager init: {tmp_path / 'file'} is no folder; nothing was written\n",
    )


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """After an error in the middle, neither files nor folders of the new bot are there."""
    code = (
        "import resource, sys; from observability.commands.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); "
        "sys.exit(main(['init', 'new/bot']))"
    )
    ended = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 2
    assert "File too large; nothing was written" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_wheel_and_sdist_have_every_file(built: Path, tmp_path: Path) -> None:
    """The files are in what is published, those that begin with a dot too; installed, it works."""
    expected = {f"db_manager/new_bot/template/{file}" for file in template_files()}
    assert {".gitignore", ".dockerignore", ".env.example"} < {f.name for f in template_files()}
    wheel, sdist = next(built.glob("*.whl")), next(built.glob("*.tar.gz"))
    with zipfile.ZipFile(wheel) as archive:
        assert expected <= set(archive.namelist())
    with tarfile.open(sdist) as packed:
        assert expected <= {name.partition("/")[2] for name in packed.getnames()}
    target = tmp_path / "installed"
    install = ("pip", "install", "--no-deps", "--compile-bytecode", "--target", target, wheel)
    said_by(find_uv_bin(), "--offline", *install, "--python", sys.executable, cwd=tmp_path)
    assert list(target.glob("db_manager/new_bot/template/**/__pycache__"))
    code = "import sys; from observability.commands.cli import main; sys.exit(main())"
    command = (sys.executable, "-c", code, "init", "new")
    said = said_by(*command, cwd=tmp_path, PYTHONPATH=str(target))
    assert shlex.quote(str(wheel)) in said  # what the next step takes
    assert entries(tmp_path / "new") == entries(TEMPLATE)


def test_the_requirements_are_those_that_the_steps_make(built: Path, folder: Path) -> None:
    """With the wheel in its place, both files of requirements can be installed."""
    wheel = next(built.glob("*.whl"))
    (folder / "wheels").mkdir()
    (folder / "wheels" / wheel.name).write_bytes(wheel.read_bytes())
    for file in ("requirements.txt", "requirements-dev.txt"):
        install = ("pip", "install", "--dry-run", "--requirement", file)
        said = said_by(find_uv_bin(), "--offline", *install, "--python", sys.executable, cwd=folder)
        [new] = re.findall(r"^ \+ (.*)$", said, re.MULTILINE)  # the rest is installed here
        assert new.startswith("db-manager @ file:")
        assert new.endswith(f"/wheels/{wheel.name}")


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_its_tests_pass(database: str, folder: Path, request: pytest.FixtureRequest) -> None:
    """The tests of a new bot pass as they are, on both databases, without a warning."""
    url = "sqlite://"
    if database == "postgres":
        admin: URL = request.getfixturevalue("postgres_admin")
        url = admin.render_as_string(hide_password=False)
    command = forked("-W", "error", "-m", "pytest")
    assert "3 passed" in said_by(*command, cwd=folder, SANDBOX_URL=url)
    assert not list(folder.glob("*.sqlite3*"))


def test_linters_and_type_checkers_have_nothing_to_say(folder: Path) -> None:
    """Ruff, its formatter and mypy --strict pass in the new folder."""
    for tool in ("ruff", "mypy"):
        pytest.importorskip(tool, reason="not among the oldest packages, which need no linters")
    said_by(sys.executable, "-m", "ruff", "check", "--isolated", ".", cwd=folder)
    said_by(sys.executable, "-m", "ruff", "format", "--isolated", "--check", ".", cwd=folder)
    no_cache = f"--cache-dir={os.devnull}"
    said = said_by(sys.executable, "-m", "mypy", "--strict", no_cache, ".", cwd=folder)
    assert "no issues found in 5 source files" in said


def dockerfile(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the instructions of the Dockerfile, each with its arguments."""
    for line in (folder / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, arguments = line.partition(" ")
            yield name, arguments


def image_environment(folder: Path, data: Path) -> dict[str, str]:
    """Return what the image says in the environment, with *data* in the place of its volume."""
    pairs = [p for name, said in dockerfile(folder) if name == "ENV" for p in said.split()]
    values = dict(pair.split("=", 1) for pair in pairs)
    return {name: value.replace("/data", str(data)) for name, value in values.items()}


def compose(folder: Path, **variables: str) -> dict[str, Any]:
    """Return compose.yaml with *variables* in it, all of which are mandatory."""
    text = (folder / "compose.yaml").read_text(encoding="utf-8")
    filled = re.sub(r"\$\{(\w+):\?[^}]+\}", lambda found: variables[found[1]], text)
    assert "$" not in filled
    parsed: dict[str, Any] = yaml.safe_load(filled)
    return parsed


def test_the_image_is_made_of_what_is_there(folder: Path) -> None:
    """Each instruction is a known one, and what is copied is a file of the bot, not held back."""
    instructions = list(dockerfile(folder))
    assert {name for name, _ in instructions} == {
        *("FROM", "WORKDIR", "COPY", "RUN", "ENV", "VOLUME", "USER", "CMD")
    }
    copied = [said.split()[:-1] for name, said in instructions if name == "COPY"]
    sources = {source for each in copied for source in each}
    assert sources == {"requirements.txt", "wheels", "config.toml", "bot"}
    (folder / "wheels").mkdir()  # by the first of the next steps
    assert all((folder / source).exists() for source in sources)
    ignored = (folder / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line.strip("!/") for line in ignored if line.startswith("!")} == sources
    assert "*" in ignored
    image = dict(instructions)["FROM"]
    assert f"Python :: {image.removeprefix('python:').removesuffix('-slim')}" in (
        ROOT / "pyproject.toml"
    ).read_text(encoding="utf-8")


def test_the_stop_fits_into_the_time_that_docker_gives(folder: Path) -> None:
    """Docker kills the container later than the bot ends by itself; what it keeps is in volumes."""
    services = compose(folder, BOT_TOKEN="42:a", POSTGRES_PASSWORD="b")["services"]
    grace = tomllib.loads((folder / "config.toml").read_text("utf-8"))["app"]["grace"]
    assert int(services["bot"]["stop_grace_period"].removesuffix("s")) > grace + 1
    kept = {each.partition(":")[2] for each in services["bot"]["volumes"]}
    assert kept == {"/data"}
    assert dict(dockerfile(folder))["VOLUME"] == "/data"
    assert all(
        value.startswith("/data/") for value in image_environment(folder, Path("/data")).values()
    )
    volumes = compose(folder, BOT_TOKEN="42:a", POSTGRES_PASSWORD="b")["volumes"]
    named = {v.partition(":")[0] for service in services.values() for v in service["volumes"]}
    assert volumes.keys() == named


def command_of(folder: Path) -> list[str]:
    """Return what Python runs in the container."""
    program, *arguments = json.loads(dict(dockerfile(folder))["CMD"])
    assert program == "python"
    return list(map(str, arguments))


async def talk(telegram: BotApiServer) -> None:
    """Have a conversation with the bot."""
    ada = telegram.user(7, "Ada")
    await ada.say("/note milk")
    assert (await ada.reply(LONGEST)).text == "Noted."
    await ada.say("/list")
    assert (await ada.reply(LONGEST)).text == "- milk"


def seen_by_git(folder: Path) -> list[str]:
    """Return the files that git would take."""
    shown = said_by("git", "ls-files", "--others", "--exclude-standard", cwd=folder)
    return sorted(shown.splitlines())


async def test_it_runs_beside_its_files(folder: Path) -> None:
    """With the token in .env it answers and stops well; git sees nothing of what appears."""
    said_by("git", "init", "--quiet", cwd=folder)
    before = seen_by_git(folder)
    assert before == [str(file) for file in template_files()]
    async with BotApiServer() as telegram:
        example = (folder / ".env.example").read_text(encoding="utf-8")
        filled = example.replace("BOT_TOKEN=", f"BOT_TOKEN={telegram.token}")
        (folder / ".env").write_text(filled, encoding="utf-8")
        command = (sys.executable, *command_of(folder))
        async with polling(*command, cwd=folder, telegram=telegram):
            await talk(telegram)
            assert "lifecycle.sqlite3-lock" in entries(folder)
            assert seen_by_git(folder) == before
    assert {"bot.sqlite3", "lifecycle.sqlite3", "lifecycle.units.jsonl"} < entries(folder).keys()
    assert seen_by_git(folder) == before
    said_by(*forked("-m", COMMANDS, "check"), cwd=folder)
    assert "ended well" in said_by(*forked("-m", COMMANDS, "trace"), cwd=folder)


async def test_it_runs_as_in_its_image(folder: Path, tmp_path: Path) -> None:
    """In the environment of the image all that it writes is in the volume."""
    data = tmp_path / "data"
    data.mkdir()
    before = entries(folder)
    async with BotApiServer() as telegram:
        said = image_environment(folder, data)
        said["BOT_TOKEN"] = telegram.token
        command = forked(*command_of(folder))
        async with polling(*command, cwd=folder, telegram=telegram, **said):
            await talk(telegram)
    assert entries(folder) == before
    assert {"bot.sqlite3", "lifecycle.sqlite3"} < entries(data).keys()


async def test_it_runs_as_compose_says(
    folder: Path, tmp_path: Path, postgres_database: URL
) -> None:
    """On PostgreSQL, in the environment of compose.yaml, it answers, is healthy and stops well."""
    before = entries(folder)
    async with BotApiServer() as telegram:
        secrets = {"BOT_TOKEN": telegram.token, "POSTGRES_PASSWORD": "unused"}
        service = compose(folder, **secrets)["services"]["bot"]
        said = {**image_environment(folder, tmp_path), **service["environment"]}
        address = f"127.0.0.1:{free_port()}"
        told, said["OBSERVABILITY__ENDPOINT"] = said["OBSERVABILITY__ENDPOINT"], address
        url = postgres_database
        said |= {"DATABASE__HOST": str(url.host), "DATABASE__PORT": str(url.port)}
        said |= {"DATABASE__USER": str(url.username), "DATABASE__DATABASE": str(url.database)}
        said |= {"DATABASE__PASSWORD": url.password} if url.password else {}
        kind, program, *health = service["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python")
        assert told in health[-1]
        health[-1] = health[-1].replace(told, address)
        command = forked(*command_of(folder))
        async with polling(*command, cwd=folder, telegram=telegram, **said):
            await talk(telegram)
            await asyncio.to_thread(said_by, *forked(*health), cwd=folder)
    assert entries(folder) == before


def test_without_a_token_it_says_where_to_write_it(folder: Path) -> None:
    """The first start without .env is one line, with the fix, and exit code 1."""
    run = ended(*forked("-m", "bot"), cwd=folder)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "There is no BOT_TOKEN: write the one from @BotFather into .env\n"
