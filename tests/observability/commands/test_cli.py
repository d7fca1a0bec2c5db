import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from lifecycle.correlation import Correlation
from lifecycle.event import Event
from lifecycle.events import (
    AppStarted,
    AppStopped,
    AppStopping,
    PluginDegraded,
    PluginFailed,
    PluginLoaded,
    PluginLoading,
    PluginStarted,
    PluginStarting,
    PluginStopped,
    PluginStopping,
    PluginUnloaded,
    PluginUnloading,
    ServiceProvided,
    ServiceWithdrawn,
)
from lifecycle.journal import SqliteJournal
from observability.commands.cli import COMMANDS, main
from observability.story.unit_log import units_path
from observability.views.graph import Edge, Graph, Node
from observability.views.graph_svg import to_svg
from observability.views.trace_text import TraceText

GOOD: tuple[Event, ...] = (
    PluginLoading(at=0.0, plugin="db"),
    ServiceProvided(at=0.001, plugin="db", service="db:engine"),
    PluginLoaded(at=0.002, plugin="db", duration=0.002),
    PluginStarting(at=0.003, plugin="db"),
    PluginStarted(at=1.5, plugin="db", duration=1.497),
    AppStarted(at=1.5, plugins=("db",), duration=1.5),
    PluginDegraded(at=86401.25, plugin="db", reason="no answer \x1b[31m"),
    AppStopping(at=90000.0),
    PluginStopping(at=90000.0, plugin="db"),
    PluginStopped(at=90000.25, plugin="db", duration=0.25),
    AppStopped(at=90000.25, duration=0.25),
    PluginUnloading(at=90000.25, plugin="db"),
    ServiceWithdrawn(at=90000.25, plugin="db", service="db:engine"),
    PluginUnloaded(at=90000.5, plugin="db", duration=0.25),
)
FAILED: tuple[Event, ...] = (
    PluginLoading(at=0.0, plugin="db"),
    PluginFailed(
        at=0.5,
        plugin="db",
        hook="load",
        error="ValueError: no\nsuch",
        cleanup_errors=("OSError: disk",),
        duration=0.5,
    ),
)


def record(path: Path, events: Sequence[Event], *, clean: bool = True) -> None:
    """Write a run into a journal."""
    journal = SqliteJournal(path)
    journal.open()
    for event in events:
        journal.append(event)
    journal.close(clean=clean)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal with a good run, a failed one, and one that died in a start hook."""
    path = tmp_path / "bot.sqlite3"
    record(path, GOOD)
    record(path, FAILED)
    record(path, GOOD[:4], clean=False)
    return path


def db_manager(*arguments: str | Path) -> tuple[int, str, str]:
    """Run the command in this process; return exit code, output and errors."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse
            code = int(str(error.code))
    return code, output.getvalue(), errors.getvalue()


def started(*arguments: str | Path) -> "subprocess.Popen[str]":
    """Start the installed command in a process of its own."""
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("db-manager")), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
    )


def parse(svg: str) -> ET.Element:
    """Return the root of a picture that was drawn here."""
    return ET.fromstring(svg)  # noqa: S314 -- our own text


def test_a_good_run_is_told_step_by_step(journal: Path) -> None:
    """Each hook has a line with its duration, what it did is below it, and the end is well."""
    with started("trace", "--journal", journal, "--run", "1") as command:
        shown, said = command.communicate(timeout=60)
    assert (command.returncode, said) == (0, "")
    head, _, *lines = shown.splitlines()
    assert re.fullmatch(rf"Run 1, process {os.getpid()}, began [\d-]+ [\d:]+ UTC", head)
    assert [line.rstrip() for line in lines if not line.startswith("✓")] == [
        "1970-01-01",
        "00:00:00.000Z      load    db                      2.0 ms",
        "00:00:00.001Z        provides db:engine",
        "00:00:00.003Z      start   db                     1.497 s",
        "00:00:01.500Z    app started                      1.500 s  db",
        "1970-01-02",
        r"00:00:01.250Z  !   degraded db                             no answer \u001b[31m",
        "01:00:00.000Z    app stopping",
        "01:00:00.000Z      stop    db                    250.0 ms",
        "01:00:00.250Z    app stopped                     250.0 ms",
        "01:00:00.250Z      unload  db                    250.0 ms",
        "01:00:00.250Z        withdraws db:engine",
        "",
    ]
    assert re.match(r"✓ Run 1 ended well after [\d.]+ ms\.", lines[-1])


def test_a_failed_run_says_what_failed(journal: Path) -> None:
    """The hook, its error and the errors of its cleanup are there, and the exit code is 1."""
    code, shown, _ = db_manager("trace", "--journal", journal, "--run", "2")
    assert code == 1
    lines = shown.splitlines()
    assert lines[3:6] == [
        r"00:00:00.000Z  ✗   load    db                    500.0 ms  ValueError: no\nsuch",
        "               ✗     cleanup                               OSError: disk",
        "",
    ]
    assert re.match(r"✗ Run 2 ended with failures after .* ms\.", lines[6])
    assert lines[7] == r"  plugin 'db' failed in load: ValueError: no\nsuch"


def test_a_dead_run_says_where_it_died(journal: Path) -> None:
    """A run without an end is marked with where its plugins were; `last` is the default."""
    code, shown, _ = db_manager("trace", "--journal", journal)
    assert code == 1
    *_, hook, _, verdict, plugins, where = shown.splitlines()
    assert hook == "00:00:00.003Z  …   start   db                              unfinished"
    assert verdict.startswith(f"✗ Run 3 died: process {os.getpid()} ended without a stop")
    assert plugins == "  its plugins: db starting"
    assert where == "  plugin 'db' was in its start hook"
    assert db_manager("trace", "--journal", journal, "--run", "last")[1] == shown


def test_json_is_an_object_a_line_with_the_outcome_last(journal: Path) -> None:
    """Machines get every event, and then how the run ended."""
    code, shown, _ = db_manager("trace", "--journal", journal, "--run", "2", "--json")
    assert code == 1
    *events, last = map(json.loads, shown.splitlines())
    assert [(each["run"], each["seq"], each["topic"]) for each in events] == [
        (2, 1, "plugin.loading"),
        (2, 2, "plugin.failed"),
    ]
    assert events[1]["error"] == "ValueError: no\nsuch"
    assert (last["run"], last["outcome"], last["pid"]) == (2, "failed", os.getpid())


def test_one_plugin_may_be_asked_for(tmp_path: Path) -> None:
    """Only what is about that plugin is shown; one that is not there is refused with a hint."""
    path = tmp_path / "bot.sqlite3"
    where = Correlation(plugin="notes")
    record(
        path,
        (
            PluginLoading(at=0, plugin="db"),
            PluginLoaded(at=1, plugin="db", duration=1),
            PluginLoading(at=2, plugin="notes", correlation=where),
            PluginLoaded(at=3, plugin="notes", duration=1, correlation=where),
        ),
    )
    code, shown, _ = db_manager("trace", "--journal", path, "--plugin", "notes")
    assert "load    notes" in shown
    assert "load    db" not in shown
    assert code == 0  # the run has an end
    code, shown, said = db_manager("trace", "--journal", path, "--plugin", "note")
    assert (code, shown) == (2, "")
    assert "no plugin 'note' (did you mean 'notes'?); there are: db, notes" in said


def test_what_cannot_be_shown_is_said_with_exit_code_2(tmp_path: Path, journal: Path) -> None:
    """No journal, no such run, no configuration, or none that keeps a history: 2, and the fix."""
    nothing = tmp_path / "nothing.sqlite3"
    memory = tmp_path / "config.toml"
    memory.write_text('[app]\njournal = "memory"\n')
    for arguments, answer in (
        (("--journal", nothing), "there is no such file; start the bot once"),
        (("--journal", journal, "--run", "9"), "there is no run 9, only 1 to 3"),
        (("--config", tmp_path / "no.toml"), "no.toml: there is no such file"),
        (("--config", memory), "[app] journal keeps no history on disk; set it to a file"),
        (("--run", "first"), "'first' is neither a number nor `last`"),
    ):
        code, shown, said = db_manager("trace", *arguments)
        assert (code, shown) == (2, "")
        assert answer in said
        assert "Traceback" not in said


def test_the_journal_is_found_beside_the_configuration(tmp_path: Path) -> None:
    """Without --journal it is the one that config.toml names, relative to it."""
    (tmp_path / "config.toml").write_text('[app]\njournal = "history.sqlite3"\n')
    record(tmp_path / "history.sqlite3", GOOD)
    assert db_manager("trace", "--config", tmp_path / "config.toml")[0] == 0


def test_units_that_did_not_simply_commit_stand_in_the_trace(journal: Path) -> None:
    """A rolled back unit, and who held the last connection, are shown at their time."""
    facts = (
        {"topic": "uow.close", "unit": 1, "outcome": "committed", "duration": 0.01, "at": 2.0},
        {
            "topic": "uow.close",
            "unit": 2,
            "outcome": "rolled_back",
            "error": "KeyError: 'x'",
            "duration": 0.5,
            "at": 3.0,
            "correlation": {"update_id": 7, "handler": "bot.add"},
        },
        {"topic": "uow.leave", "unit": 2, "inner": 7, "outcome": "joined", "at": 3.1},
        {"topic": "uow.leave", "unit": 2, "inner": 8, "outcome": "failed", "at": 3.2},
        {"topic": "pool.exhausted", "at": 4.0, "size": 1, "holders": ["unit 3 of update 8"]},
        {"topic": "uow.slow", "unit": 4, "at": 5.0, "duration": 0.4},
        {"topic": "record.lost", "at": 5.5, "lines": 1},
        {
            "topic": "uow.close",
            "unit": 4,
            "outcome": "committed",
            "at": 6.0,
            "duration": 0.5,
            "waited": 0.2,
        },
    )
    lines = "".join(json.dumps({"run": 1, **fact}) + "\n" for fact in facts)
    units_path(journal).write_text(lines)
    _, shown, _ = db_manager("trace", "--journal", journal, "--run", "1")
    rolled_back = "rolled back; KeyError: 'x'; update 7, bot.add"
    waited = "committed; waited 200.0 ms for a connection"
    simply = "00:00:02.000Z      unit 1                         10.0 ms  committed"
    joined = f"00:00:03.100Z      unit 7 in 2 {'':<28}joined"
    remarkable = [
        f"00:00:03.000Z  !   unit 2                        500.0 ms  {rolled_back}",
        f"00:00:03.200Z  !   unit 8 in 2 {'':<28}failed",
        f"00:00:04.000Z  !   no connection {'':<26}the only one was held for too long",
        "                     held by unit 3 of update 8",
        "00:00:05.000Z  !   unit 4                        400.0 ms  still open",
        f"00:00:05.500Z  !   record of units {'':<24}1 line could not be written",
        f"00:00:06.000Z  !   unit 4                        500.0 ms  {waited}",
    ]
    assert told(shown, "unit", "connection") == remarkable
    summary = "3 units of work: 2 committed, 1 rolled back; the longest, unit 2, took 500.0 ms."
    assert shown.splitlines()[-1] == f"  {summary}"
    _, shown, _ = db_manager("trace", "--journal", journal, "--run", "1", "--units")
    assert told(shown, "unit", "connection") == [
        *(simply, remarkable[0], joined),
        *remarkable[1:],
    ]
    _, shown, _ = db_manager("trace", "--journal", journal, "--run", "1", "--units", "--json")
    told_machines = [json.loads(line) for line in shown.splitlines() if '"unit":4' in line]
    assert [each["topic"] for each in told_machines] == ["uow.slow", "uow.close"]


def test_units_that_nobody_recorded_are_not_passed_over(journal: Path) -> None:
    """Who asks for units is told why there are none; who does not ask is not bothered."""
    _, shown, _ = db_manager("trace", "--journal", journal, "--run", "1", "--units")
    assert "no section [observability], or units = false" in shown.splitlines()[-1]
    assert "observability" not in db_manager("trace", "--journal", journal, "--run", "1")[1]
    units_path(journal).touch()
    assert "observability" not in db_manager("trace", "--journal", journal, "--units")[1]


def test_databases_and_replicas_stand_in_the_trace(journal: Path) -> None:
    """A unit on another database names it, and so does the loss of its replica, and its return."""
    facts = (
        {"topic": "uow.slow", "unit": 4, "at": 1.0, "duration": 0.4, "database": "analytics"},
        {"topic": "pool.exhausted", "at": 2.0, "size": 1, "database": "analytics"},
        {"topic": "replica.lost", "at": 3.0, "reason": "OSError: gone"},
        {"topic": "replica.lost", "at": 4.0, "reason": "OSError: gone", "database": "stats"},
        {"topic": "replica.recovered", "at": 5.0, "duration": 2.0},
    )
    lines = "".join(json.dumps({"run": 1, **fact}) + "\n" for fact in facts)
    units_path(journal).write_text(lines)
    _, shown, _ = db_manager("trace", "--journal", journal, "--run", "1")
    held = "the only one was held for too long"
    assert told(shown, "unit", "connection", "replica") == [
        "00:00:01.000Z  !   unit 4 on analytics           400.0 ms  still open",
        f"00:00:02.000Z  !   no connection on analytics {'':<15}{held}",
        f"00:00:03.000Z  !   replica lost {'':<27}OSError: gone",
        f"00:00:04.000Z  !   replica lost on stats {'':<18}OSError: gone",
        "00:00:05.000Z      replica is back                2.000 s",
    ]


def test_what_was_open_when_the_process_died_is_told(journal: Path) -> None:
    """A unit that was reported open and has not ended is named after the verdict."""
    where = {"update_id": 7, "handler": "bot.add"}
    slow = {"topic": "uow.slow", "unit": 2, "at": 1.0, "duration": 0.4, "correlation": where}
    units_path(journal).write_text(json.dumps({"run": 3, **slow}) + "\n")
    _, shown, _ = db_manager("trace", "--journal", journal, "--run", "3")
    *_, hook, unit = shown.splitlines()
    assert hook == "  plugin 'db' was in its start hook"
    assert unit == "  unit 2 was open, update 7, bot.add"


def told(shown: str, *words: str) -> list[str]:
    """Return the lines of a trace, up to the verdict, in which one of the words is."""
    lines = shown.partition("\n✓ ")[0].splitlines()
    return [line for line in lines if any(word in line for word in words)]


def test_a_run_can_be_followed_to_its_end(tmp_path: Path) -> None:
    """--follow shows what happens as it happens, and ends with the run."""
    journal = SqliteJournal(tmp_path / "bot.sqlite3")
    journal.open()
    journal.append(GOOD[0])
    with started("trace", "--follow", "--journal", journal.path) as following:
        assert following.stdout is not None
        shown = [following.stdout.readline() for _ in range(4)]
        assert "loading db …" in shown[3]
        for event in GOOD[1:]:
            journal.append(event)
        assert "load    db" in following.stdout.readline()
        journal.close(clean=True)
        rest = following.stdout.read()
        assert "✓ Run 1 ended well" in rest
        assert "loaded" not in rest
    assert following.returncode == 0


def test_a_follower_tells_each_unit_once(tmp_path: Path) -> None:
    """--follow tells of units as they are recorded, and counts all of them in the end."""
    journal = SqliteJournal(tmp_path / "bot.sqlite3")
    journal.open()
    fact = {"run": 1, "topic": "uow.close", "error": "KeyError", "outcome": "rolled_back"}
    with (
        started("trace", "--follow", "--journal", journal.path) as following,
        units_path(journal.path).open("w", encoding="utf-8", buffering=1) as record,
    ):
        assert following.stdout is not None
        assert following.stdout.readline().startswith("Run 1")
        following.stdout.readline()
        for unit in (1, 2):
            record.write(json.dumps({**fact, "unit": unit, "at": time.time()}) + "\n")
            assert f"unit {unit} " in following.stdout.readline()
        journal.close(clean=True)
        rest = following.stdout.read()
    assert "unit 1 " not in rest.partition("✓")[0]
    assert "2 units of work: 2 rolled back" in rest


def test_a_follower_can_be_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends --follow without a traceback."""
    journal = SqliteJournal(tmp_path / "bot.sqlite3")
    journal.open()
    with started("trace", "--follow", "--journal", journal.path) as following:
        assert following.stdout is not None
        assert following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.communicate(timeout=30)[1] == ""
    assert following.returncode == 130
    journal.close(clean=True)


def test_a_reader_that_has_seen_enough_is_no_error(journal: Path) -> None:
    """`db-manager trace | head -0` ends quietly."""
    with started("trace", "--journal", journal) as run:
        assert run.stdout is not None
        run.stdout.close()
        assert run.stderr is not None
        assert run.stderr.read() == ""
    assert run.returncode == 0


def test_colours_mark_what_failed(journal: Path) -> None:
    """On a terminal a failed hook is red; elsewhere there is no escape code."""
    from observability.story.runs import find_run  # noqa: PLC0415 -- the reader is this test's only

    with SqliteJournal.read(journal) as reader:
        head, entries = find_run(reader, 2), list(reader.entries(2))
    coloured = list(TraceText(colours=True).lines(head, entries))
    assert any(line.startswith("\x1b[2m00:00:00.000Z\x1b[0m  \x1b[31m✗ ") for line in coloured)
    assert "\x1b" not in "".join(TraceText(colours=False).lines(head, entries))


DIAGRAM = "observability.commands.draw_diagram"


def loaded_by(*arguments: str) -> set[str]:
    """Return the modules that a command has imported at its end."""
    program = (
        "import sys, io, contextlib\n"
        "from observability.commands.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(sys.argv[1:])\n"
        "print(*sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return set(run.stdout.split())


def test_commands_import_only_what_they_need(journal: Path, tmp_path: Path) -> None:
    """To read a run nothing is imported that only a running bot, or another command, needs."""
    heavy = {"aiogram", "aiohttp", "sqlalchemy", "pydantic", "structlog", "asyncio", "db_manager"}
    (tmp_path / "config.toml").write_text(f'[app]\njournal = "{journal.name}"\n')
    config = ("--config", str(tmp_path / "config.toml"))
    reading = {"transitions", "lifecycle.application", "lifecycle.bus", "lifecycle.machine"}
    trace = loaded_by("trace", *config)
    assert "observability.commands.show_trace" in trace
    assert not trace & (heavy | reading | {"observability.timeline", DIAGRAM})
    timeline = loaded_by("timeline", *config, "-o", str(tmp_path / "page.html"))
    assert "observability.timeline" in timeline
    assert not timeline & (heavy | reading | {"observability.commands.show_trace", DIAGRAM})
    assert not loaded_by("diagram", "--states") & heavy
    assert not loaded_by("--help") & heavy - {"asyncio", "db_manager"}  # of `check`


def test_every_command_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The help lists all commands, each with the first line of its module."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    names = entry_points(group=COMMANDS).names
    inspect = {"check", "delivery", "diagram", "timeline", "trace"}
    assert names == inspect | {"backup", "init", "migrate"}
    for name in names:
        assert re.search(rf"^ +{name} +[A-Z]", shown, re.MULTILINE)


def test_the_timeline_is_written_and_its_place_is_told(journal: Path, tmp_path: Path) -> None:
    """`db-manager timeline` writes the page, says where, and says when it cannot."""
    page = tmp_path / "page.html"
    assert db_manager("timeline", "--journal", journal, "-o", page) == (0, f"{page}\n", "")
    assert "<title>Run 3 died" in page.read_text(encoding="utf-8")
    code, _, said = db_manager("timeline", "--journal", journal, "-o", tmp_path / "no" / "page")
    assert code == 2
    assert "cannot be written: No such file or directory" in said


PLUGINS = """
from lifecycle import Plugin
class Db(Plugin):
    name = "db"
class Notes(Plugin):
    name = "notes"
    requires = ("db",)
"""


def test_plugins_are_drawn_with_what_they_require_and_their_state(tmp_path: Path) -> None:
    """The Mermaid text names each plugin, its state in the last run, and the arrows."""
    (tmp_path / "drawn_plugins.py").write_text(PLUGINS)
    config = tmp_path / "config.toml"
    config.write_text('[app]\nplugins = ["drawn_plugins:Notes", "drawn_plugins:Db"]\n')
    mermaid = (
        "flowchart TD\n"
        '    n0["db{0}"]{1}\n'
        '    n1["notes"]\n'
        "    n0 --> n1\n"
        "    classDef good stroke:#2b9d6a\n"
        "    classDef bad stroke:#d3303e\n"
    )
    assert db_manager("diagram", "--config", config) == (0, mermaid.format("", ""), "")
    record(tmp_path / "lifecycle.sqlite3", FAILED)
    state = ("<br/><small>failed</small>", ":::bad")
    assert db_manager("diagram", "--config", config) == (0, mermaid.format(*state), "")
    code, shown, _ = db_manager("diagram", "--config", config, "--format", "svg")
    texts = [element.text for element in parse(shown).iter() if element.tag[-4:] == "text"]
    assert (code, texts) == (0, ["db", "failed", "notes"])


def test_states_are_drawn_from_the_table_of_the_machine() -> None:
    """The states of a plugin come as Mermaid's state diagram, and as a picture with all names."""
    code, shown, _ = db_manager("diagram", "--states")
    assert code == 0
    assert shown.startswith("stateDiagram-v2\n    [*] --> unloaded\n")
    _, shown, _ = db_manager("diagram", "--states", "--format", "svg")
    texts = {element.text for element in parse(shown).iter()}
    assert texts >= {"unloaded", "starting", "failed", "degraded, recovered", "unloading"}


def on_a_terminal(*arguments: str | Path, encoding: str = "utf-8") -> str:
    """Return what the installed command sends to a terminal."""
    terminal, screen = os.openpty()
    with os.fdopen(terminal, "rb") as seen:
        run = subprocess.Popen(
            [str(Path(sys.executable).with_name("db-manager")), *map(str, arguments)],
            stdout=screen,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        os.close(screen)
        sent = b""
        with suppress(OSError):  # the terminal's way to say that there is no more
            while chunk := os.read(seen.fileno(), 1 << 16):
                sent += chunk
        assert run.wait(timeout=60) == 0
    return sent.decode(encoding).replace("\r\n", "\n")


def test_a_terminal_gets_a_tree_and_a_pipe_gets_mermaid(tmp_path: Path) -> None:
    """On a terminal the diagram is drawn, in ASCII where it can show no more, or as asked for."""
    (tmp_path / "tree_plugins.py").write_text(PLUGINS)
    config = tmp_path / "config.toml"
    config.write_text('[app]\nplugins = ["tree_plugins:Notes", "tree_plugins:Db"]\n')
    record(tmp_path / "lifecycle.sqlite3", FAILED)
    tree = "notes\n└── db, failed\n"
    diagram: tuple[str | Path, ...] = ("diagram", "--config", config)
    assert on_a_terminal(*diagram) == tree
    assert on_a_terminal(*diagram, encoding="ascii") == "notes\n`-- db, failed\n"
    assert on_a_terminal(*diagram, "--format", "mermaid").startswith("flowchart TD\n")
    assert on_a_terminal("diagram", "--states").startswith("unloaded\n└── loading → loading\n")
    assert db_manager(*diagram, "--format", "text") == (0, tree, "")
    assert db_manager(*diagram)[1].startswith("flowchart TD\n")
    config.write_text("[app]\nplugins = []\n")
    code, shown, _ = db_manager(*diagram, "--format", "text")
    assert (code, shown) == (0, "no plugins: [app] plugins in config.toml names none\n")


def test_a_name_cannot_break_a_picture() -> None:
    """Names with marks of SVG and Mermaid are shown as they are."""
    name = 'a"]<script>&`'
    graph = Graph((Node(name), Node("b")), (Edge(name, "b", label="x<y"),))
    assert 'n0["a#34;#93;#60;script#62;#38;#96;"]' in graph.to_mermaid()
    texts = [element.text for element in parse(to_svg(graph)).iter()]
    assert name in texts
    assert "x<y" in texts
    assert to_svg(Graph((), ())).startswith("<svg")


def test_an_arrow_over_several_layers_passes_beside_the_boxes() -> None:
    """No arrow goes through the box of a plugin that lies between."""
    nodes = tuple(Node(name) for name in "abc")
    drawn = parse(to_svg(Graph(nodes, (Edge("a", "b"), Edge("b", "c"), Edge("a", "c")))))
    space = "{http://www.w3.org/2000/svg}"
    boxes = {
        float(rect.attrib["y"]): (float(rect.attrib["x"]), float(rect.attrib["width"]))
        for rect in drawn.iter(f"{space}rect")
    }
    left, width = boxes[sorted(boxes)[1]]
    (long,) = [p.attrib["d"] for p in drawn.iter(f"{space}path") if "L" in p.attrib["d"]][1:]
    passing = float(long.split("L")[1].split()[0])
    assert passing > left + width or passing < left


#: What names could forge lines with, or rewrite a terminal: breaks, ESC, C1's CSI, direction.
FORGING = "\n\r\x1b\x07\x7f\x85\x9b\u2028\u202e\u2066\u200f"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Return the journal of a run in which every name and text tries to forge a line."""
    evil = f"{FORGING}[2Jforged"
    journal = SqliteJournal(tmp_path / "bot.sqlite3")
    journal.open()
    for event in (
        PluginLoading(plugin=evil),
        ServiceProvided(plugin=evil, service=f"{evil}:s"),
        PluginLoaded(plugin=evil, duration=0.1),
        PluginStarting(plugin=evil),
        PluginFailed(plugin=evil, hook="start", error=evil, cleanup_errors=(evil,), duration=0.1),
        PluginLoading(plugin="open"),
    ):
        journal.append(event)
    where = {"handler": evil, "plugin": evil, "update_id": 7}
    fact = {"run": 1, "unit": 2, "at": 1.0, "duration": 0.4, "correlation": where, "error": evil}
    facts = [
        {**fact, "topic": "uow.slow"},
        {**fact, "topic": "uow.close", "outcome": evil},
        {**fact, "topic": "pool.exhausted", "holders": [evil], "size": 1},
    ]
    units_path(journal.path).write_text("".join(json.dumps(each) + "\n" for each in facts))
    journal.close(clean=False)
    return journal.path


@pytest.mark.parametrize(
    "arguments",
    [
        ("--plugin", FORGING),
        ("--plugin", f"{FORGING}[2Jforged"),
        ("--units",),
        ("--json", "--units"),
        ("--json", "--plugin", "nobody"),
        ("--run", FORGING),
        (f"--{FORGING}",),
        ("--run", "7"),
    ],
)
def test_no_name_forges_a_line(hostile: Path, arguments: tuple[str, ...]) -> None:
    """Whatever plugins, services, handlers and arguments are called, no output has it raw."""
    _, shown, said = db_manager("trace", "--journal", hostile, *arguments)
    assert not set(shown + said) & set(FORGING) - {"\n"}
    assert shown + said
    for line in (shown + said).splitlines():
        assert not line.startswith("[2Jforged")
    if "--json" in arguments and shown:
        told = [json.loads(line) for line in shown.splitlines()]
        assert told[0]["plugin"] == f"{FORGING}[2Jforged"


@pytest.mark.parametrize("command", ["check", "diagram", "diagram --format text"])
def test_no_name_in_the_configuration_forges_a_line(tmp_path: Path, command: str) -> None:
    """A plugin of a hostile name is shown escaped, and so is an error that names it."""
    (tmp_path / "hostile_plugin.py").write_text(
        f"from lifecycle import Plugin\nclass Evil(Plugin):\n    name = {FORGING + 'forged'!r}\n"
    )
    config = tmp_path / "config.toml"
    for plugins in ('["hostile_plugin"]', json.dumps([FORGING + "forged"])):
        config.write_text(f'[app]\njournal = ""\nplugins = {plugins}\n')
        _, shown, said = db_manager(*command.split(), "--config", config)
        assert "forged" in shown + said
        assert not set(shown + said) & set(FORGING) - {"\n"}
        assert not any(line.lstrip().startswith("forged") for line in (shown + said).splitlines())


@pytest.mark.parametrize("state", ["no byte", "no table"])
def test_a_journal_that_is_just_being_made(tmp_path: Path, state: str) -> None:
    """Between the making of the file and that of its tables no run is recorded yet."""
    journal = tmp_path / "bot.sqlite3"
    journal.touch()
    if state == "no table":
        with closing(sqlite3.connect(journal)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    for command in ("trace", "timeline"):
        code, _, said = db_manager(command, "--journal", journal)
        assert code == 2
        assert said == f"db-manager {command}: journal {journal}: no run is recorded yet\n"
    with SqliteJournal.read(journal) as reader:
        assert (reader.runs(), list(reader.entries()), list(reader.entries(1))) == ([], [], [])
        assert reader.crash() is None
