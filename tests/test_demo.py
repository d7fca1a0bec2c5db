"""The demo shows what it promises, and leaves its history behind, and nothing else.

`make demo` is run once as it is, with a fresh Python; for the other runs one is forked, in which
the libraries are imported already.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest
from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from support.forks import forked
from support.programs import ended

from db_manager import DatabasePlugin
from db_manager.delivery import DeliveryPlugin
from examples.notes_bot.audit import AuditPlugin
from examples.notes_bot.killed import Victim
from examples.notes_bot.notes import NotesPlugin
from examples.notes_bot.screen import Screen, happened, said
from lifecycle import (
    Application,
    AppStopping,
    Event,
    PluginLoading,
    PluginStarted,
    SqliteJournal,
)
from lifecycle.bot import run_polling
from lifecycle.testing import BotApiServer

ROOT = Path(__file__).parents[1]


def in_order(text: str, *patterns: str) -> bool:
    """Return whether the patterns are found one after the other."""
    return re.search(".*".join(patterns), text, re.DOTALL) is not None


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder like this repository: with examples and config.toml, and no history yet."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(ROOT / "config.toml", tmp_path)
    return tmp_path


def run_in(repository: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in a repository, with a URL in the environment that must not be used."""
    url = "postgresql+asyncpg://nobody@localhost/bot"
    return ended(*command, cwd=repository, COLUMNS="120", DATABASE__URL=url)


def demo(repository: Path, *python: str) -> str:
    """Return what the demo shows; it must end well."""
    command = (*(python or forked()), "-W", "error", "-m", "examples.notes_bot")
    run = run_in(repository, *command)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def files(repository: Path) -> set[str]:
    """Return the names of the files beside config.toml."""
    return {path.name for path in repository.iterdir()} - {"examples", "config.toml"}


def test_the_demo_shows_the_chat_the_rollback_and_the_drained_stop(repository: Path) -> None:
    """`python -m examples.notes_bot` ends well and shows every promise; its history stays."""
    shown = demo(repository, sys.executable)
    assert "\033" not in shown
    assert "subscriber.failed" not in shown
    chat = re.findall(r"^ *[\d.]+  (.{1,40})", shown, re.MULTILINE)
    heard = [line.strip() for line in chat if line.strip()]
    assert heard[:2] == ["Ada     /note milk", "bot   Noted as 2."]
    assert heard[-8:-5] == [
        "Grace   /slow",
        "signal  SIGTERM, while /slow is at work",
        "bot   Slow, but committed.",
    ]
    started = (
        "plugin.loaded +db_manager",
        "database.migrated +notes, 0002_add_done",
        "app.started",
    )
    assert in_order(shown, *started, "uow.begin", "uow.commit", "uow.close")
    assert in_order(
        shown,
        "Ada +/boom",
        "uow.rollback .*RuntimeError",
        "That failed",
        "1. eggs ✓\n",
        "2. milk\n",
    )
    stopped = ("app.drained +1 waited for, 0 cancelled", "app.stopping", "app.stopped +0 errors")
    assert in_order(shown, "SIGTERM", "uow.commit", *stopped, "plugin.unloaded +audit")
    assert (
        "The table holds eggs, bread, call Ada, worth the wait, tea; what /boom wrote is not"
        in shown
    )
    assert {name for name in files(repository) if not name.startswith("lifecycle.")} == set()


def test_the_demo_kills_a_bot_that_owes_an_answer(repository: Path) -> None:
    """The process ends by SIGKILL after its COMMIT, and another one gives the answer, once."""
    shown = demo(repository)
    [story] = re.findall(r"kill -9 between.*?\n(.*?)\n\n", shown, re.DOTALL)
    lines = [re.sub(r"^ *[\d.]+ +", "", line) for line in story.splitlines()]
    victim = lines[1].split()[1]
    assert lines[0] == "Ada     /note tea"
    left = "its database holds 1 note of tea, and 1 answer that nobody has sent"
    assert lines[1:3] == [f"process {victim} starts", f"kill -9 {victim} is gone: {left}"]
    assert re.fullmatch(r"process \d+ starts", lines[3])
    assert lines[3].split()[1] != victim
    assert lines[4:] == ["bot   Noted as 6."]
    assert "the next process gave it" in shown


async def test_a_victim_that_is_not_killed_is_told(tmp_path: Path) -> None:
    """When its process comes to another end, the demo fails, and shows what that one said."""
    victim = Victim()
    async with BotApiServer() as telegram:
        with pytest.raises(RuntimeError, match=r"(?s)ended with 1: .*nowhere"):
            await victim.meet(tmp_path / "nowhere.toml", telegram)


def test_after_the_demo_trace_and_timeline_have_something_to_show(repository: Path) -> None:
    """The commands that the demo names show its run, and the runs before it are as they were."""
    path = repository / "lifecycle.sqlite3"
    journal = SqliteJournal(path)
    journal.open()
    journal.append(PluginLoading(plugin="shop"))
    journal.close(clean=False)
    before = list(journal.entries(1))
    shown = demo(repository)
    assert re.search("app.crashed +run 1, after plugin.loading shop", shown)
    assert list(journal.entries(1)) == before
    trace, timeline = re.findall(r"^  (\S*db-manager \w+) ", shown, re.MULTILINE)
    run = run_in(repository, *trace.split())
    assert (run.returncode, run.stderr) == (0, "")
    assert "previous run 1 crashed" in run.stdout
    assert re.search("  start   db_manager .*\n.*    migrate notes .* 0002_add_done\n", run.stdout)
    assert re.search("✓ Run 2 ended well after .*\n  9 units of work: 8 committed, 1", run.stdout)
    assert run_in(repository, *timeline.split()).stdout == "timeline.html\n"
    page = (repository / "timeline.html").read_text(encoding="utf-8")
    assert "<title>Run 2 ended well</title>" in page


def test_the_history_of_a_bot_that_runs_is_left_alone(repository: Path) -> None:
    """While another bot writes the journal the demo keeps no history, says why, and ends well."""
    journal = SqliteJournal(repository / "lifecycle.sqlite3")
    journal.open()
    journal.append(PluginLoading(plugin="shop"))
    units = repository / "lifecycle.units.jsonl"
    units.write_text('{"run":1}\n')
    shown = demo(repository)
    reason = f"journal {journal.path} is written by process {os.getpid()}"
    assert f"The history of this run is kept nowhere: {reason}" in shown
    assert in_order(shown, "Ada +/boom", "worth the wait", "RuntimeError", "make test")
    assert "db-manager " not in shown
    journal.close(clean=True)
    with SqliteJournal.read(journal.path) as reader:
        assert [run.run for run in reader.runs()] == [1]
        assert [entry.event.topic for entry in reader.entries()] == ["plugin.loading"]
    assert units.read_text() == '{"run":1}\n'


@pytest.mark.parametrize("hindrance", ["a folder", "memory"])
def test_without_a_place_for_its_history_the_demo_keeps_none(
    repository: Path, hindrance: str
) -> None:
    """Where no journal can be made, or none is wanted, the demo says so and ends well."""
    if hindrance == "a folder":
        (repository / "lifecycle.sqlite3").mkdir()
        why = "journal .*lifecycle.sqlite3: cannot open it: unable to open database file"
    else:
        config = repository / "config.toml"
        kept = config.read_text(encoding="utf-8")
        config.write_text(kept.replace('"lifecycle.sqlite3"', '"memory"'), encoding="utf-8")
        why = r"\[app\] journal in config.toml keeps no history"
    shown = demo(repository)
    assert re.search(f"The history of this run is kept nowhere: {why}", shown)
    assert "db-manager " not in shown
    assert files(repository) <= {"lifecycle.sqlite3", "lifecycle.sqlite3-lock"} | {
        "lifecycle.units.jsonl"
    }


async def test_the_bot_answers_what_it_cannot_do(tmp_path: Path) -> None:
    """Notes without text, notes of others and what is no number are refused in words."""
    config = {"database": {"database": str(tmp_path / "bot.sqlite3")}, "notes": {"longest": 5}}
    app = Application([AuditPlugin, DatabasePlugin, DeliveryPlugin, NotesPlugin], config=config)
    dispatcher = Dispatcher()
    async with BotApiServer() as telegram:
        session = AiohttpSession(api=TelegramAPIServer.from_base(telegram.url))
        bot = asyncio.create_task(run_polling(app, dispatcher, Bot(telegram.token, session)))
        ada, grace = telegram.user(7, "Ada"), telegram.user(8, "Grace")
        for user, text, answer in (
            (ada, "/list", "No notes yet."),
            (ada, "/note", "Write /note and 1 to 5 characters."),
            (ada, "/note chocolate", "Write /note and 1 to 5 characters."),
            (ada, "/note milk", "Noted as 1."),
            (grace, "/drop 1", "There is no such note."),
            (ada, "/drop milk", "There is no such note."),
            (ada, "/list", "1. milk"),
            (grace, "/done 1", "There is no such note."),
            (ada, "/done milk", "There is no such note."),
            (ada, "/done 1", "Done."),
            (ada, "/list", "1. milk ✓"),
            (ada, "/drop 1", "Dropped."),
            (ada, "/list", "No notes yet."),
        ):
            await user.say(text)
            assert (await user.reply()).text == answer
        await dispatcher.stop_polling()
        await bot


def shown(columns: int, monkeypatch: pytest.MonkeyPatch, *, no_color: str = "") -> str:
    """Return what a terminal of a width is sent for a short story."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", no_color)
    facts: list[tuple[float, Event]] = [
        (1.0, PluginLoading(plugin="notes")),
        (2.0, PluginStarted(plugin="notes", duration=0.001)),
        (3.01, AppStopping()),
    ]
    entries = [entry for at, event in facts if (entry := happened(at, event))]
    entries += [said(3.0, "Ada", "/list"), said(4.0, "bot to Ada", "1. milk\n2. bread")]
    terminal, screen = os.openpty()
    with os.fdopen(screen, "w") as stdout, redirect_stdout(stdout):
        Screen().show(entries)
    sent = b""
    with suppress(OSError):  # the terminal's way to say that there is no more
        while chunk := os.read(terminal, 1 << 16):
            sent += chunk
    os.close(terminal)
    return sent.decode().replace("\r\n", "\n")


def test_on_a_wide_terminal_the_trace_stands_beside_the_chat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a message caused stands on its line, and what is longer goes on below."""
    lines = [line.split() for line in shown(120, monkeypatch, no_color="1").splitlines()[2:]]
    assert lines == [
        ["0.00", "plugin.started", "notes,", "1.0", "ms"],
        ["1.00", "Ada", "/list", "app.stopping"],
        ["2.00", "bot", "1.", "milk"],
        ["2.", "bread"],
    ]


def test_on_a_narrow_terminal_the_trace_comes_after_the_chat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where two columns have no room the chat comes first, with the same times."""
    text = shown(80, monkeypatch, no_color="1")
    assert in_order(text, "chat", "1.00  Ada", "2. bread", "lifecycle", "0.00  plugin.started")


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colours, unless NO_COLOR is set."""
    assert "\033[1mAda" in shown(120, monkeypatch)
    assert "\033" not in shown(120, monkeypatch, no_color="1")
