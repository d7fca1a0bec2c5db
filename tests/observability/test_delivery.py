"""Messages and updates are seen: in the log, the metrics, the spans, the trace and the picture."""

import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from aiogram import Dispatcher
from aiogram.types import Message
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from sqlalchemy.engine import URL
from support.kept import client, polling

from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.journal import SqliteJournal
from lifecycle.testing import BotApiServer
from observability import logs, metrics, spans, timeline
from observability.commands.cli import main
from observability.story.unit_log import UnitFact, units_path
from observability.story.unit_reader import read_units
from observability.story.unit_writer import record_units

CANARY = "c4n4ry"


class Seen:
    """What observers have made of a run."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.log = io.StringIO()
        self.scrape = ""
        self.exporter = InMemorySpanExporter()

    def lines(self, topic: str) -> list[dict[str, Any]]:
        """Return the log lines of a topic."""
        every = map(json.loads, self.log.getvalue().splitlines())
        return [line for line in every if line["event"] == topic]

    def spans(self, name: str) -> list[ReadableSpan]:
        """Return the spans with a name, those that went well first."""
        found = [span for span in self.exporter.get_finished_spans() if span.name == name]
        return sorted(found, key=lambda span: not span.status.is_ok)

    def trace(self, *arguments: str) -> list[str]:
        """Return the lines of `db-manager trace`, with one space between words."""
        output = io.StringIO()
        with redirect_stdout(output):
            main(["trace", "--journal", str(self.journal), *arguments])
        return [" ".join(line[15:].split()) for line in output.getvalue().splitlines()]

    def facts(self) -> list[UnitFact]:
        """Return the records of the run."""
        return list(read_units(units_path(self.journal), 1))


@pytest.fixture(scope="module")
async def seen(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Seen]:
    """A bot that answered, had a message refused, may have sent one, and parked an update."""
    folder = tmp_path_factory.mktemp("seen")
    url = URL.create("sqlite+aiosqlite", database=str(folder / "bot.sqlite3"))
    found = Seen(folder / "journal.sqlite3")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(found.exporter))
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        with provider.get_tracer("bot").start_as_current_span("handler"):
            async with uow_factory() as uow:
                uow.send(message.answer(CANARY), once=message.text == "once")

    @dispatcher.edited_message()
    async def fail(message: Message) -> None:
        raise ValueError(message.text)

    async with BotApiServer() as server, client(server) as bot:
        ada = server.user(7, "Ada")
        section = {"journal": str(found.journal)}
        async with polling(url, dispatcher, bot, app=section, attempts=1) as app:
            with ExitStack() as stack:
                bus = app.app.bus
                stack.callback(record_units(bus, units_path(found.journal)))
                stack.enter_context(
                    logs.attach(bus, stream=found.log, format="json", level="debug")
                )
                measured = stack.enter_context(metrics.attach(bus, probes=app.app.probes))
                stack.enter_context(spans.attach(bus, tracer_provider=provider))
                await ada.say("fine")
                await app.events.wait_for("message.sent")
                server.fail_next("sendMessage", error_code=403)
                await ada.say("refused")
                await app.events.wait_for("message.dead")
                server.lose_next("sendMessage", "answer")
                await ada.say("once")
                await app.events.wait_for("message.unknown")
                await ada.edit(CANARY)
                await app.events.wait_for("update.parked")
                found.scrape = measured.render()[0].decode()
    yield found
    provider.shutdown()


def test_each_line_of_the_log_says_which_and_how(seen: Seen) -> None:
    """With the method and the reason; the warnings are those that need somebody."""
    [sent] = seen.lines("message.sent")
    assert (sent["message"], sent["bot_id"], sent["method"]) == (1, 42, "sendMessage")
    [dead] = seen.lines("message.dead")
    assert (dead["level"], dead["message"]) == ("warning", 2)
    assert dead["error"].startswith("TelegramForbiddenError")
    [parked] = seen.lines("update.parked")
    assert (parked["level"], parked["update_id"]) == ("error", 4)
    assert [line["update_id"] for line in seen.lines("update.done")] == [1, 2, 3]
    assert CANARY not in seen.log.getvalue()


def test_metrics_count_each_and_say_what_waits(seen: Seen) -> None:
    """By method; the probes are gauges."""
    for line in (
        'message_sent_total{method="sendMessage"} 1.0',
        'message_dead_total{method="sendMessage"} 1.0',
        'message_unknown_total{method="sendMessage"} 1.0',
        'message_sent_wait_seconds_count{method="sendMessage"} 1.0',
        "update_done_wait_seconds_count 3.0",
        "update_stored_count_sum 4.0",
        "update_parked_total 1.0",
        'delivery_outbox{level="open"}',
        'delivery_inbox{level="held"}',
    ):
        assert line in seen.scrape


def test_a_message_is_a_span_beside_its_unit(seen: Seen) -> None:
    """From when it was due until Telegram had it; what was given up is an error."""
    sent, *given_up = seen.spans("db_manager.message")
    assert sent.attributes is not None
    assert sent.attributes["db_manager.method"] == "sendMessage"
    assert sent.attributes["db_manager.update_id"] == 1
    assert (sent.start_time or 0) < (sent.end_time or 0)
    around, *_ = seen.spans("handler")
    assert sent.parent is not None
    assert around.context is not None
    assert sent.parent.span_id == around.context.span_id
    assert [span.status.status_code for span in given_up] == [StatusCode.ERROR] * 2
    *done, parked = seen.spans("db_manager.update")
    assert len(done) == 3
    assert (parked.status.status_code, parked.attributes and parked.attributes["error.type"]) == (
        StatusCode.ERROR,
        "ValueError",
    )


def test_the_trace_has_what_was_given_up_and_with_units_all(seen: Seen) -> None:
    """With the update that a message answers, and counts at the end."""
    shown = seen.trace()
    about = [line for line in shown if re.match(r"(! )?message \d", line)]
    [everything] = [line for line in seen.trace("--units") if line.startswith("message 1 ")]
    assert re.match(r"message 1 [\d.]+ m?s sendMessage sent; update 1, tests\.", everything)
    assert sum(" done" in line for line in seen.trace("--units")) == 4  # and the sum of them
    assert about[0].startswith("! message 2 sendMessage dead; TelegramForbiddenError")
    assert "update 2, tests.observability.test_delivery" in about[0]
    assert not [line for line in about if line.startswith("message 1")]
    assert about[1].startswith("! message 3 sendMessage may have been sent; TelegramNetworkError")
    [parked] = [line for line in shown if line.startswith("! update 4")]
    assert parked.startswith("! update 4 parked; ValueError: raised in ")
    assert CANARY not in "\n".join(shown)


def test_the_picture_has_a_lane_for_them(seen: Seen) -> None:
    """With bars for what was delivered, and marks for what was not."""
    entries = list(SqliteJournal(seen.journal).entries())
    page = timeline.render(entries, seen.facts())
    for text in ("message 1", "sendMessage sent", "message 2 is dead", "update 4 is parked"):
        assert text in page
    assert "3 messages: 1 sent, 1 dead, 1 unknown; 4 updates: 3 done, 1 parked." in page
    assert CANARY not in page
