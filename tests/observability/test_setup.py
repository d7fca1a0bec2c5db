"""The section [observability]: what it switches on, and what is said of its faults."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from db_manager.events import UnitClosed
from lifecycle.application import Application
from lifecycle.errors import ConfigError, PluginFailedError
from lifecycle.journal import SqliteJournal
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.machine import State
from lifecycle.plugins.plugin import Plugin
from observability.config import ObservabilityConfig
from observability.setup import observe
from observability.story.unit_log import units_path
from observability.story.unit_reader import read_units


def closed(unit: int) -> UnitClosed:
    """Return the end of a unit."""
    return UnitClosed(unit=unit, outcome="committed", duration=1, statements=1, database_time=1)


class Quiet(Plugin):
    """A plugin that does nothing."""

    name = "quiet"


class Failing(Plugin):
    """A plugin that cannot start."""

    name = "failing"

    async def start(self, context: PluginContext) -> None:
        """Fail."""
        del context
        raise ValueError("no\n{}")


@pytest.mark.parametrize(
    ("section", "text"),
    [
        (
            {"levle": "s3cret"},
            (
                "[observability] levle: unknown key (did you mean 'level'?); "
                "there are: level, format, slow_unit, sample, stdlib, units, "
                "metrics, traces, endpoint"
            ),
        ),
        (
            {"level": "s3cret"},
            (
                "[observability] level: Input should be 'debug', 'info', 'warning' or 'error' "
                "(the lowest level that is shown)"
            ),
        ),
        (
            {"format": "xml"},
            (
                "[observability] format: Input should be 'auto', 'console' or 'json' "
                "(auto is console on a terminal and json elsewhere)"
            ),
        ),
        (
            {"slow_unit": 0, "sample": 2},
            (
                "[observability] slow_unit: 0 is out of range: 0.001 to 86400 "
                "(seconds from which a unit's log line is a warning)\n"
                "[observability] sample: 2 is out of range: 0 to 1 "
                "(share of units whose ordinary log lines are shown)"
            ),
        ),
        (
            {"slow_unit": "1"},
            (
                "[observability] slow_unit: Input should be a valid number "
                "(seconds from which a unit's log line is a warning)"
            ),
        ),
        (
            {"sample": float("nan")},
            (
                "[observability] sample: nan is out of range: 0 to 1 "
                "(share of units whose ordinary log lines are shown)"
            ),
        ),
    ],
)
def test_a_wrong_section(section: dict[str, Any], text: str) -> None:
    """Each fault is one line that names the key and the fix; of values it shows numbers only."""
    with pytest.raises(ConfigError) as caught:
        Application([], config={"observability": section})
    assert str(caught.value) == text


def test_a_section_that_says_nothing() -> None:
    """An empty section switches the lines on; what is returned switches them off."""
    app = Application([])
    close = observe(app, ObservabilityConfig())
    assert app.bus.channel("app.started").handlers
    assert not app.bus.channel("plugin.loading").handlers
    close()
    assert not app.bus.subscriptions


async def test_an_application_shows_its_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The lines of a run go from the first plugin that loads to the end of the application."""
    config = {"observability": {"level": "debug", "format": "json"}}
    app = Application([Quiet], config=config)
    async with app:
        pass
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == [
        "plugin.loading",
        "plugin.loaded",
        "plugin.starting",
        "plugin.started",
        "app.started",
        "app.stopping",
        "plugin.stopping",
        "plugin.stopped",
        "app.stopped",
        "plugin.unloading",
        "plugin.unloaded",
    ]
    assert {line["run"] for line in lines} == {app.bus.run}
    assert not app.bus.subscriptions


async def test_a_failed_start_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A plugin that fails is one line at the level error, whatever its error says."""
    app = Application([Failing], config={"observability": {"level": "error", "format": "json"}})
    with pytest.raises(PluginFailedError):
        await app.start()
    await app.unload()
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (line["event"], line["plugin"], line["hook"]) == ("plugin.failed", "failing", "start")
    assert line["error"] == "ValueError: no {}"


def test_a_wrong_config_file(tmp_path: Path) -> None:
    """A section that is no table is refused before anything loads."""
    file = tmp_path / "config.toml"
    file.write_text("observability = 1\n")
    with pytest.raises(ConfigError, match="observability"):
        Application.from_config(file)


async def test_the_section_switches_logs_on(capsys: pytest.CaptureFixture[str]) -> None:
    """With the section in the configuration the run is logged from its begin to its last event."""
    config = {"observability": {"format": "json"}}
    async with Application([], config=config):
        pass
    topics = [line.split('"event":"')[1].split('"')[0] for line in capsys.readouterr().err.split()]
    assert topics == ["app.started", "app.stopping", "app.stopped"]


async def test_the_ends_of_units_are_kept_beside_the_journal(tmp_path: Path) -> None:
    """While a run lasts its units are written beside the journal's file; then it is closed."""
    journal = SqliteJournal(tmp_path / "bot.sqlite3")
    app = Application([], config={"observability": {"level": "error"}}, journal=journal)
    async with app:
        app.bus.publish(closed(1))
        assert app.bus.channel(UnitClosed).handlers
    assert not app.bus.subscriptions
    app.bus.publish(closed(2))
    (fact,) = read_units(units_path(journal.path), app.bus.run)
    assert (fact.unit, fact.outcome) == (1, "committed")


@pytest.mark.parametrize("journal", ["bot.sqlite3", None])
def test_units_are_not_kept_where_nobody_wants_them(tmp_path: Path, journal: str | None) -> None:
    """With `units = false`, and with a journal in memory, no file is made."""
    kept = None if journal is None else SqliteJournal(tmp_path / journal)
    app = Application([], journal=kept)
    close = observe(app, ObservabilityConfig(units=journal is None))
    app.bus.publish(closed(1))
    assert not list(tmp_path.iterdir())
    close()


async def test_units_that_cannot_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record that cannot be written is one warning with the way out, and the bot runs."""
    journal = SqliteJournal(tmp_path / "bot.sqlite3")
    units_path(journal.path).mkdir()
    config = {"observability": {"format": "json"}}
    async with Application([Quiet], config=config, journal=journal) as app:
        assert app.plugins["quiet"].state is State.STARTED
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (warning,) = [line["event"] for line in lines if line["level"] == "warning"]
    assert warning.startswith("[observability] units: ")
    assert str(units_path(journal.path)) in warning
    assert warning.endswith("fix this, or set units = false")
    assert not app.bus.subscriptions


async def test_a_disk_that_is_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A record whose disk is full from the begin to the end is one warning, and no error."""
    journal = SqliteJournal(tmp_path / "bot.sqlite3")
    units_path(journal.path).symlink_to("/dev/full")
    config = {"observability": {"format": "json"}}
    async with Application([Quiet], config=config, journal=journal) as app:
        for number in range(500):
            app.bus.publish(closed(number))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (warning,) = {line["event"] for line in lines if line["level"] != "info"} - {"uow.close"}
    assert warning.startswith("[observability] units: ")
    assert "No space left on device" in warning
    assert [line["event"] for line in lines].count(warning) == 1


@pytest.mark.parametrize(
    ("key", "module"), [("metrics", "prometheus_client"), ("traces", "opentelemetry.trace")]
)
def test_a_missing_extra(key: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key whose extra is not installed is refused with what to install, before anything runs."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"\[observability\] {key}: .*install db-manager\["):
        Application([], config={"observability": {key: True}})


def test_backends_are_imported_when_they_are_asked_for() -> None:
    """The observers cost no import of a backend that nobody switched on."""
    program = (
        "import sys, observability.setup, observability.metrics, observability.spans\n"
        "print({'prometheus_client', 'opentelemetry', 'aiohttp', 'sqlalchemy'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True
    )
    assert run.stdout == "set()\n"
