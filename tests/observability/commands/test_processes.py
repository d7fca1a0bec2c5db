"""Several processes on one config.toml: each has a name, a journal, and a story of its own.

They are forked, so that the libraries are imported already.
"""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.forks import forked

from lifecycle import Application, ConfigError, Plugin, SqliteJournal
from observability.commands.cli import main

#: Runs what `from_config` is told on the command line, with a unit of work, until its input ends.
PROGRAM = """
import asyncio, os, sys
from lifecycle import Application, JournalLockedError

print(os.getpid(), flush=True)

async def run():
    app = eval(f"Application.from_config({sys.argv[1]})")
    try:
        async with app:
            async with app.services["db_manager:uow_factory"]() as uow:
                await uow.session.connection()
            print("runs", ", ".join(app.plugins), flush=True)
            await asyncio.to_thread(sys.stdin.read)
    except JournalLockedError as error:
        print("refused", error, flush=True)

asyncio.run(run())
"""
SHOP = '''
import lifecycle

class Shop(lifecycle.Plugin):
    """Needs the bot."""

    name = "shop"

    async def load(self, context):
        context.services["aiogram:dispatcher"]
'''
CONFIG = """
[app]
plugins = ["db_manager"]

[database]
url = "sqlite+aiosqlite:///bot.sqlite3"

[observability]
endpoint = "127.0.0.1:0"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a bot, where the commands run."""
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Process:
    """A process on the configuration of the folder."""

    def __init__(self, folder: Path, arguments: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            forked("program.py", arguments),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
        )
        self.pid = self.said()

    def said(self) -> str:
        """Return the next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")


@contextmanager
def running(folder: Path, arguments: str = "", **environment: str) -> Iterator[Process]:
    """Run a process, which ends in order at the end of the block."""
    process = Process(folder, arguments, environment)
    try:
        yield process
    finally:
        process.process.communicate(timeout=60)


def test_two_processes_run_on_one_configuration(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second is refused without a name, and with one both are there and told apart."""
    with running(folder) as bot:
        assert bot.said() == "runs db_manager"
        with running(folder) as second:
            said = second.said()
            assert said.startswith(f"refused journal {folder / 'lifecycle.sqlite3'} is written by")
            assert f"process {bot.pid};" in said
            assert "APP__NAME=api" in said
        with running(folder, APP__NAME="api") as api:
            assert api.said() == "runs db_manager"
            assert main(["trace", "--name", "api", "--units"]) == 0
            head, *lines = capsys.readouterr().out.splitlines()
            assert head.startswith(f"Run 1 of api, process {api.pid}, began")
            assert [line for line in lines if "unit 1" in line]
            assert main(["check"]) == 0
            assert "config.toml is valid" in capsys.readouterr().out
    capsys.readouterr()
    assert main(["trace"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"Run 1, process {bot.pid}, began")
    assert "ended well" in shown.out
    assert shown.err == "This is the process without a name; also there: api (--name)\n"
    files = {each.name for each in folder.iterdir() if each.name.startswith("lifecycle")}
    assert {name for name in files if not name.endswith(("-wal", "-shm"))} == {
        f"lifecycle{name}{end}"
        for name in ("", ".api")
        for end in (".sqlite3", ".sqlite3-lock", ".units.jsonl")
    }


def test_each_process_has_its_endpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment gives the second process another address, or none."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (folder / "config.toml").write_text(CONFIG.replace("127.0.0.1:0", address))
        with running(folder, APP__NAME="api", OBSERVABILITY__ENDPOINT="") as api:
            assert api.said() == "runs db_manager"
    monkeypatch.setenv("OBSERVABILITY__METRICS", "maybe")
    with pytest.raises(ConfigError, match="OBSERVABILITY__METRICS: is not true or false"):
        Application.from_config()
    monkeypatch.setenv("OBSERVABILITY__METRICS", "true")
    monkeypatch.setenv("OBSERVABILITY__SAMPLE", "7")
    with pytest.raises(ConfigError, match=r"\[observability\] sample: 7.0 is out of range: 0 to 1"):
        Application.from_config()


def test_a_name_is_taken_once(folder: Path) -> None:
    """A second process with the same name is refused as one without a name is."""
    with running(folder, 'name="api"') as first:
        assert first.said() == "runs db_manager"
        with running(folder, APP__NAME="api") as second:
            said = second.said()
        assert said.startswith(f"refused journal {folder / 'lifecycle.api.sqlite3'} is written by")


def test_a_timeline_says_whose_run_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page of a named process has its name in the title; `diagram` takes the name too."""
    journal_of(folder, "api")
    assert main(["timeline", "--name", "api"]) == 0
    page = (folder / "timeline.html").read_text()
    assert re.search("<title>Run 1 of api ended well", page)
    assert main(["diagram", "--name", "api"]) == 0
    assert "db_manager" in capsys.readouterr().out


def journal_of(folder: Path, name: str) -> None:
    """Write a run of the process *name*."""
    journal = SqliteJournal(folder / f"lifecycle{name and '.'}{name}.sqlite3")
    journal.open()
    journal.close(clean=True)


def test_without_a_name_it_is_the_only_one_or_they_are_listed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One journal is shown, whatever its name; of several the commands say which there are."""
    assert main(["trace"]) == 2
    assert "start the bot once" in capsys.readouterr().err
    journal_of(folder, "api")
    assert main(["trace"]) == 0
    assert capsys.readouterr().out.startswith("Run 1 of api,")
    journal_of(folder, "worker")
    (folder / "lifecycle.sqlite3.copy").write_text("")  # no journal of a process
    assert main(["trace"]) == 2
    assert "there are journals of api, worker: choose with --name" in capsys.readouterr().err
    assert main(["trace", "--name", "wroker"]) == 2
    assert "lifecycle.wroker.sqlite3: there is no such file" in capsys.readouterr().err
    journal_of(folder, "")
    assert main(["trace"]) == 0
    assert "also there: api, worker (--name)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["trace", "--name", "api", "--journal", "x"])


def test_a_name_of_the_file_is_the_default(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`[app] name` names the process; the environment goes before it, the argument before both."""
    (folder / "config.toml").write_text(CONFIG.replace("[app]", '[app]\nname = "bot"'))
    journal_of(folder, "bot")
    journal_of(folder, "api")
    assert main(["trace"]) == 0
    shown = capsys.readouterr()
    assert (shown.out[:13], shown.err) == ("Run 1 of bot,", "")
    assert Application.from_config().name == "bot"
    monkeypatch.setenv("APP__NAME", "api")
    assert Application.from_config().name == "api"
    app = Application.from_config(name="worker")
    assert app.name == "worker"
    assert isinstance(app.journal, SqliteJournal)
    assert app.journal.path == folder / "lifecycle.worker.sqlite3"
    assert main(["trace"]) == 0
    assert capsys.readouterr().out.startswith("Run 1 of api,")
    monkeypatch.setenv("APP__NAME", "")  # as an empty variable of a compose file
    assert Application.from_config().name == ""


def test_a_process_runs_the_plugins_that_it_needs(folder: Path) -> None:
    """An API leaves out the plugin that needs the bot, and what the file says to it."""
    (folder / "config.toml").write_text(
        CONFIG.replace('["db_manager"]', '["db_manager", "shop_of_processes"]')
        + "[shop]\ncurrency = 'EUR'\n"
    )
    (folder / "shop_of_processes.py").write_text(SHOP)
    with running(folder, 'name="api", plugins=["db_manager"]') as api:
        assert api.said() == "runs db_manager"
    with running(folder, APP__NAME="api", APP__PLUGINS='["db_manager"]') as api:
        assert api.said() == "runs db_manager"


def test_a_name_without_a_suffix_does_not_share_the_record_of_units(folder: Path) -> None:
    """A journal whose file has no suffix gets one with the name."""

    class Nothing(Plugin):
        name = "nothing"

    app = Application([Nothing], config={"app": {"journal": str(folder / "journal")}}, name="api")
    assert isinstance(app.journal, SqliteJournal)
    assert app.journal.path == folder / "journal.api.sqlite3"
