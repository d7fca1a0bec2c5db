"""docs/debugging.md: what it shows is what the commands say after real nights.

Python is forked for the bots and the commands, so that the libraries are imported already.
"""

import asyncio
import re
import sys
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import pytest
from support.forks import forked

from examples.night.__main__ import masked, rendered
from examples.night.office import Answer, Office
from examples.night.scenes import play_all

DOCUMENT = Path(__file__).parents[1] / "docs" / "debugging.md"


async def started(office: Office, program: str, *arguments: str, **streams: Any) -> Process:
    """Start what an office starts in a process that is forked."""
    command = () if program == sys.executable else ("-m", "observability.commands.cli")
    return await asyncio.create_subprocess_exec(
        *forked(*command, *arguments), cwd=office.folder, env=office._environment, **streams
    )


@pytest.fixture(scope="module")
async def shown() -> dict[str, list[Answer]]:
    """What the commands show after three nights in which a bot breaks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Office, "_started", started)
        return await play_all()


@pytest.mark.timeout(300)
async def test_the_document_shows_what_the_commands_show(shown: dict[str, list[Answer]]) -> None:
    """Each block of the document is what its command says, up to numbers; none is missing."""
    document = DOCUMENT.read_text(encoding="utf-8")
    assert rendered(document, shown) == document
    blocks = re.findall(r"<!-- shown: (\S+) (\d+) -->", document)
    assert blocks == [(n, str(i + 1)) for n, all_ in shown.items() for i in range(len(all_))]


async def test_a_failed_start_names_plugin_reason_and_times(shown: dict[str, list[Answer]]) -> None:
    """The typo is found with its fix; the trace says which plugin failed, why, and each time."""
    check, trace = shown["does-not-start"]
    assert (check.code, trace.code) == (1, 1)
    assert "[rates] flie: unknown key (did you mean 'file'?)" in check.text
    failed = r"✗   start   rates +[\d.]+ m?s  FileNotFoundError: .*'rates.csv'"
    for line in (r"start   db_manager +[\d.]+ m?s$", r"start   reports +[\d.]+ m?s$", failed):
        assert re.search(line, trace.text, re.MULTILINE)


async def test_an_empty_pool_names_who_held_the_connections(
    shown: dict[str, list[Answer]],
) -> None:
    """Both holders stand there with handler and update, the oldest first, and who waited."""
    trace = shown["answers-nobody"][0]
    assert trace.code == 0
    handler = "reports.ReportsPlugin.report"
    waited, *holders = re.findall("(?:no connection|held by unit) .*", trace.text)[:3]
    assert waited.endswith(f"both were held for too long; update 3, {handler}")
    for update, holder in enumerate(holders, 1):
        assert f"handler {handler}, update {update}, open " in holder


async def test_a_killed_bot_is_found_dead_with_its_open_unit(
    shown: dict[str, list[Answer]],
) -> None:
    """The next run says that the one before crashed, and that one says what was open."""
    after, dead, page = shown["was-killed"]
    assert (after.code, dead.code, page.code) == (0, 1, 0)
    assert "previous run 1 crashed" in after.text
    assert "✗ Run 1 died: process" in dead.text
    assert "its plugins: db_manager started, reports started, rates started" in dead.text
    assert "unit 1 was open, update 1, reports.ReportsPlugin.report" in dead.text


def test_only_numbers_are_masked() -> None:
    """Another time is no difference, and another word is one."""
    line = "05:20:24.771Z      load    db_manager    {}  {}"
    assert masked(line.format("26.9 ms", "well")) == masked(line.format(" 1.069 s", "well"))
    assert masked(line.format("26.9 ms", "well")) != masked(line.format("26.9 ms", "ill"))
