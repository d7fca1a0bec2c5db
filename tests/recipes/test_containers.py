"""The recipe of a bot in a container: what can be said of it without a container engine.

The bot runs as its image would run it: its files in a folder of their own, the command, the health
check and the environment of Dockerfile and compose.yaml. Python is forked for them, so that the
libraries are imported already.
"""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import AbstractAsyncContextManager
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from sqlalchemy.engine import URL
from support.forks import forked
from support.ports import free_port
from support.programs import PATIENCE, Program, ended, local, running
from uv import find_uv_bin

from db_manager import DatabaseConfig
from lifecycle.config import app_config
from lifecycle.testing import BotApiServer

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "recipes" / "containers"
CONFIG = tomllib.loads((FOLDER / "config.toml").read_text("utf-8"))
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
BOT = COMPOSE["services"]["bot"]
#: The steps of the Dockerfile, lines that go on put together.
STEPS = [
    tuple(line.split(maxsplit=1))
    for line in (FOLDER / "Dockerfile").read_text("utf-8").replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]
PORT = "9100"


def step(name: str) -> str:
    """Return what follows the only step of the Dockerfile with a name."""
    (said,) = [rest for each, rest in STEPS if each == name]
    return said


def copied() -> dict[str, list[str]]:
    """Return what the Dockerfile copies, by the working directory into which it does."""
    folder, found = "", dict[str, list[str]]()
    for name, rest in STEPS:
        if name == "WORKDIR":
            folder = rest
        elif name == "COPY":
            found.setdefault(folder, []).extend(rest.split()[:-1])
    return found


def seconds(text: str) -> float:
    """Return what compose.yaml means by `15s`."""
    assert text.endswith("s")
    return float(text.removesuffix("s"))


def command(text: str) -> tuple[str, ...]:
    """Return a command that is given as a list; one for a shell is none."""
    program, *arguments = json.loads(text.removeprefix("CMD "))
    assert program == "python"
    return forked(*arguments)


def files(folder: Path) -> set[str]:
    """Return all files below a folder."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if "__pycache__" not in path.parts}


def test_docker_waits_longer_than_the_bot() -> None:
    """SIGKILL comes after the longest stop, and the database outlives the bot."""
    assert seconds(BOT["stop_grace_period"]) > app_config(CONFIG).grace
    assert "postgres" in BOT["depends_on"]
    assert BOT["init"] is True


def test_what_is_written_is_in_a_volume() -> None:
    """The files that config.toml names are in the folder that is a volume, and kept so."""
    (volume,) = BOT["volumes"]
    name, _, place = volume.partition(":")
    assert name in COMPOSE["volumes"]
    workdir = next(rest for each, rest in reversed(STEPS) if each == "WORKDIR")
    assert PurePosixPath(workdir, CONFIG["app"]["journal"]).parent == PurePosixPath(place)
    user = step("USER")
    assert user != "root"
    assert f"--owner={user} --mode=0700 {PurePosixPath(place).name}" in " ".join(
        rest for each, rest in STEPS if each == "RUN"
    )


def test_secrets_come_from_the_environment() -> None:
    """Each variable of compose.yaml is in .env.example, has no default, and is in no other file."""
    text = (FOLDER / "compose.yaml").read_text("utf-8")
    example = (FOLDER / ".env.example").read_text("utf-8")
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))
    assert text.count("${") == text.count(":?")
    assert not {"password", "url"} & CONFIG["database"].keys()
    keys = [key.removeprefix("DATABASE__") for key in BOT["environment"] if "__" in key]
    assert {key.lower() for key in keys} <= DatabaseConfig.model_fields.keys()


def test_the_image_gets_what_it_copies_and_nothing_else() -> None:
    """Each file that is copied is there, is not ignored, and nothing else is let in."""
    lines = (FOLDER / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    everything = {each for sources in copied().values() for each in sources}
    assert all((ROOT / each).exists() for each in everything)
    assert lines[1] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == everything


def test_the_package_is_built_of_what_is_copied(tmp_path: Path) -> None:
    """`pip install .` has all that it needs, and what it installs is whole."""
    source = tmp_path / "src"
    source.mkdir()
    for name in copied()["/src"]:
        place = source / Path(name).name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place)
        else:
            shutil.copy(ROOT / name, place)
    uv = (find_uv_bin(), "--offline", "--quiet", "build", "--wheel", "--no-build-isolation")
    subprocess.run([*uv, "--python", sys.executable, str(source)], check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    packages = ("db_manager", "lifecycle", "observability")
    with ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith(packages)}
    for package in packages:
        assert {f"{package}/{each}" for each in files(ROOT / package)} <= inside


class Container:
    """A folder like that of the image, in which the bot runs.

    Args:
        folder: The folder, to be made.
        telegram: The local Telegram.
        database: What the environment says of the database, beside its password.
    """

    def __init__(self, folder: Path, telegram: BotApiServer, database: dict[str, str]) -> None:
        self.port = str(free_port())
        self.folder = folder
        (folder / "data").mkdir(parents=True)
        for name in copied()["/bot"]:
            text = (ROOT / name).read_text("utf-8").replace(PORT, self.port)
            (folder / Path(name).name).write_text(text, "utf-8")
        self.made = files(folder)
        secrets = {"BOT_TOKEN": telegram.token, "POSTGRES_PASSWORD": "secret"}
        given: dict[str, Any] = {
            key: re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: secrets[found[1]], value)
            for key, value in BOT["environment"].items()
        }
        self.environment = {**given, **database, **local(telegram)}

    def running(self) -> AbstractAsyncContextManager[Program]:
        """Run the bot."""
        return running(*command(step("CMD")), cwd=self.folder, **self.environment)

    async def is_healthy(self) -> bool:
        """Return what the health check says."""
        check = step("HEALTHCHECK").replace(PORT, self.port)
        line = command(check[check.index("CMD ") :])
        return (await asyncio.to_thread(ended, *line, cwd=self.folder)).returncode == 0

    def written(self) -> set[str]:
        """Return the files that the bot has written."""
        return files(self.folder) - self.made


@pytest.fixture
def database(database_url: URL) -> dict[str, str]:
    """What the environment says of the database: the test's own, or a file in the volume."""
    if database_url.host is None:
        return {"DATABASE__URL": "sqlite+aiosqlite:///data/bot.sqlite3"}
    return {
        "DATABASE__HOST": database_url.host,
        "DATABASE__PORT": str(database_url.port),
        "DATABASE__USER": str(database_url.username),
        "DATABASE__DATABASE": str(database_url.database),
    }


async def test_it_runs_and_leaves_nothing_outside_of_its_volume(
    database: dict[str, str], tmp_path: Path
) -> None:
    """The bot answers, is healthy, ends on SIGTERM with 0, and has written into the volume only."""
    data = {"lifecycle.sqlite3", *(["bot.sqlite3"] if "DATABASE__URL" in database else [])}
    open_files = {f"data/{name}{part}" for name in data for part in ("", "-wal", "-shm")}
    record = {"data/lifecycle.units.jsonl", "data/lifecycle.sqlite3-lock"}
    async with BotApiServer() as telegram:
        container = Container(tmp_path / "bot", telegram, database)
        async with container.running() as bot:
            ada = telegram.user(7, "Ada")
            await ada.say("hello")
            assert (await ada.reply(timeout=PATIENCE)).text == "You have said 1."
            assert await container.is_healthy()
            assert await asyncio.to_thread(container.written) == open_files | record
            bot.terminate()
            await bot.ends()
        assert not await container.is_healthy()
        assert not {name for name in container.written() if name.endswith(("-wal", "-shm"))}
        async with container.running():
            await ada.say("again")
            assert (await ada.reply(timeout=PATIENCE)).text == "You have said 2."
