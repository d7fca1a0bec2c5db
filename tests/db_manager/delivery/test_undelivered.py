"""`db-manager delivery`, as who operates a bot uses it: in a process beside the running bot."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from aiogram import Bot, Dispatcher
from aiogram.methods import SendMessage
from aiogram.types import Message
from pydantic import SecretStr
from sqlalchemy.engine import URL
from support.asking import Ask, asker
from support.kept import Kept, kept, polling

from db_manager.config import DatabaseConfig
from db_manager.dialects.known import dialect_at
from db_manager.undelivered.on_database import connected
from lifecycle.testing import BotApiServer

WORD = "c4n4ry"
#: Rows: messages that wait, an update that does; messages that have ended, and updates.
WAITS = """
INSERT INTO delivery__outbox
    (bot_id, lane, method, once, begun, due_at, attempts, state, created_at)
SELECT {bot}, '42:7', 'sendMessage', FALSE, FALSE, {now} + days * {day}, 0, 0, {now}
FROM (SELECT -1 AS days UNION ALL SELECT 0 UNION ALL SELECT 1) AS moments
"""
OPEN = """
INSERT INTO delivery__inbox
    (bot_id, update_id, lane, payload, received_at, attempts, deaths)
VALUES ({bot}, 1, '42:7', '', {now}, 0, 0)
"""
ENDED = """
INSERT INTO delivery__outbox
    (bot_id, lane, method, once, begun, due_at, attempts, state, created_at, ended_at)
VALUES ({bot}, '42:7', 'sendMessage', FALSE, FALSE, {now}, 1, 2, {now}, {now}),
    ({bot}, '42:7', 'sendMessage', FALSE, FALSE, {now}, 1, 1, {now}, {now}),
    ({bot}, '42:7', 'sendMessage', FALSE, FALSE, {now}, 0, 0, {now}, NULL)
"""
PARKED = """
INSERT INTO delivery__inbox
    (bot_id, update_id, lane, payload, received_at, attempts, deaths, done_at, parked_at)
VALUES (42, 0, '42:poll', '', {now}, 0, 0, NULL, NULL),
    (42, 1, '42:7', NULL, {now}, 1, 0, {now}, NULL), (42, 2, '42:7', '', {now}, 0, 0, NULL, NULL),
    (42, 5, '42:8', '', {now}, 3, 0, NULL, {now}), (43, 5, '43:8', '', {now}, 3, 0, NULL, {now}),
    (42, 6, '42:9', '', {now}, 3, 0, NULL, {now}), (43, 6, '43:9', NULL, {now}, 1, 0, {now}, NULL)
"""


def now_of(url: URL) -> str:
    """Return the moment as the tables keep it."""
    return dialect_at(url).moment_now


@pytest.fixture(params=["sqlite", "asyncpg"])
def url(request: pytest.FixtureRequest) -> URL:
    """URL of a database of this test's own: the command asks no driver for anything special."""
    kind = "sqlite" if request.param == "sqlite" else "postgres"
    found: URL = request.getfixturevalue(f"{kind}_database")
    return found


async def say(app: Kept, *words: str, once: bool = False) -> None:
    """Send messages to Ada in one unit."""
    async with app.units() as uow:
        for each in words:
            uow.send(SendMessage(chat_id=7, text=each), once=once)


def said(server: BotApiServer) -> list[str]:
    """Return what Ada got."""
    calls = [call for call in server.calls if call.method == "sendMessage"]
    return [call.params["text"] for call in calls if call.answer and call.answer["ok"]]


def started(lines: list[str], word: str) -> str:
    """Return the one line that begins with a word, with one space between the others."""
    [found] = [line for line in lines if line.strip().startswith(word)]
    return " ".join(found.split())


async def test_what_was_refused_is_shown_and_sent_again(
    url: URL, server: BotApiServer, bot: Bot, ask: Ask
) -> None:
    """Without a word of the message; a running bot sends it after `retry`, before later ones."""
    refusal = f'Bad Request: can\'t parse entities: Unsupported start tag "{WORD}"'
    async with kept(url, bot) as app:
        assert (await ask())[0] == 0
        server.fail_next("sendMessage", error_code=400, description=refusal)
        await say(app, WORD, "b")
        await app.settled()
        code, shown = await ask()
        assert code == 1
        assert started(shown, "messages") == "messages 1 dead"
        row = started(shown, "m1")
        assert re.fullmatch(
            r"m1 42 42:7 sendMessage dead 1 \d+\.\d s TelegramBadRequest: Bad Request: can't "
            r"parse entities: Unsupported start tag …",
            row,
        )
        assert WORD not in "\n".join(shown)
        _, shown = await ask("--payloads")
        assert "\n".join(shown).count(WORD) == 2  # in the error, and in the message
        assert await ask("retry", "m1") == (0, ["m1: open again"])
        await app.settled()
        assert await app.rows("id, state, error") == [(1, 1, None), (2, 1, None)]
        code, shown = await ask()
        assert (code, shown[0]) == (0, "messages   none waits, and none was given up")
    assert said(server) == ["b", WORD]


async def test_a_message_is_tried_again_for_as_long_as_any_other(
    url: URL, server: BotApiServer, bot: Bot, ask: Ask
) -> None:
    """However long ago it was due."""
    async with kept(url, bot, retry_for=0, poll=0.05) as app:
        server.fail_next("sendMessage", error_code=400)
        await say(app, "a")
        await app.settled()
    async with kept(url) as app:
        ago = "due_at - 1e6" if "sqlite" in url.drivername else "due_at - interval '9 days'"
        await app.sql(f"UPDATE delivery__outbox SET due_at = {ago}")
    assert (await ask("retry", "m1"))[0] == 0
    server.fail_next("sendMessage", error_code=500)
    async with kept(url, bot, retry_for=600) as app:
        await app.settled()
        assert len(app.of("message.retried")) == 1
    assert said(server) == ["a"]


async def test_what_may_have_been_sent_is_sent_again_when_told_so(
    url: URL, server: BotApiServer, bot: Bot, ask: Ask
) -> None:
    """`retry` of an unknown message says that it may come twice."""
    async with kept(url, bot) as app:
        server.lose_next("sendMessage", "answer")
        await say(app, "a", once=True)
        await app.settled()
        code, shown = await ask()
        assert (code, started(shown, "messages")) == (1, "messages 1 unknown")
        assert " unknown " in started(shown, "m1")
        again = "m1: open again; it may have been sent before, and comes twice then"
        assert await ask("retry", "m1") == (0, [again])
        await app.settled()
        assert await app.rows("state") == [(1,)]
    assert said(server) == ["a", "a"]


async def test_what_is_parked_is_shown_and_handled_again(
    url: URL, server: BotApiServer, bot: Bot, ask: Ask
) -> None:
    """A running bot takes it after `retry`; one that has killed its process stays a suspect."""
    dispatcher, fails = Dispatcher(), [True]

    @dispatcher.message()
    async def handle(message: Message) -> None:
        if message.text == WORD and fails:
            raise ValueError(WORD)

    async with polling(url, dispatcher, bot, attempts=2) as app:
        await server.user(7, "Ada").say(WORD)
        await app.events.wait_for("update.parked", update_id=4)
        await app.sql("UPDATE delivery__inbox SET deaths = 9 WHERE update_id = 4")
        code, shown = await ask()
        assert (code, started(shown, "updates")) == (1, "updates 1 parked")
        assert re.match(r"u4 42 42:7 2 9 \d+\.\d s ValueError: raised in ", started(shown, "u4"))
        assert WORD not in "\n".join(shown)
        assert WORD in "\n".join((await ask("--payloads"))[1])
        fails.clear()
        assert await ask("retry", "u4") == (0, ["u4: open again"])

        async def is_done() -> bool:
            [row] = await app.sql(
                "SELECT done_at, parked_at, attempts, deaths FROM delivery__inbox "
                "WHERE update_id = 4"
            )
            return row[0] is not None and row[1:] == (None, 1, 3)  # a death is counted before it

        await app.until(is_done)
        assert (await ask())[0] == 0


async def test_what_is_dropped_is_gone_and_a_redelivery_of_it_known(
    url: URL, server: BotApiServer, bot: Bot, ask: Ask
) -> None:
    """A message has no row any more; an update has one without its text, until `keep` is over."""
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def handle(message: Message) -> None:
        if message.text == WORD:
            raise ValueError(WORD)

    async with polling(url, dispatcher, bot, attempts=1) as app:
        server.fail_next("sendMessage", error_code=403)
        await say(app, "a")
        await app.settled()
        await server.user(7, "Ada").say(WORD)
        await app.events.wait_for("update.parked")
        assert await ask("drop", "m1", "u4") == (0, ["m1: dropped", "u4: dropped"])
        assert await app.rows("id") == []
        [row] = await app.sql(
            "SELECT payload, error, done_at IS NULL FROM delivery__inbox WHERE update_id = 4"
        )
        assert row == (None, None, False)
        code, shown = await ask()
        assert (code, len(shown)) == (0, 2 if "sqlite" in url.drivername else 3)


async def test_a_word_means_all_of_a_kind(
    url: URL, server: BotApiServer, bot: Bot, ask: Ask
) -> None:
    """Dead, unknown and expired messages, and parked updates; lists show the newest."""
    async with kept(url, bot) as app:
        server.fail_next("sendMessage", error_code=403, times=3)
        await say(app, "a", "b", "c", "d")
        await app.settled()
        _, shown = await ask("--limit", "1")
        assert [line.split()[0] for line in shown if line.startswith("  m")] == ["m3"]
        assert started(shown, "and 2 older") == "and 2 older; --limit 3 shows them"
        lines = ["unknown: 0 messages open again", "parked: 0 updates open again"]
        assert await ask("retry", "unknown", "parked") == (0, lines)
        await app.sql("UPDATE delivery__outbox SET state = 4 WHERE id = 1")
        both = ["dead: 2 messages dropped", "expired: 1 message dropped"]
        assert await ask("drop", "dead", "expired") == (0, both)
        assert await app.rows("id") == [(4,)]


async def test_what_waits_is_counted_by_when_it_is_due(url: URL, bot: Bot, ask: Ask) -> None:
    """With the oldest, and when the next is due; an update that is handled is open."""
    day = "86400" if "sqlite" in url.drivername else "interval '1 day'"
    async with kept(url) as app:
        await app.sql(WAITS.format(bot=bot.id, day=day, now=now_of(url)))
        await app.sql(OPEN.format(bot=bot.id, now=now_of(url)))
        code, shown = await ask()
    assert code == 0
    messages = r"messages 2 due, the oldest for 1\.0 d; 1 scheduled, the next in (24\.0 h|1\.0 d)"
    assert re.fullmatch(messages, started(shown, "messages"))
    assert re.fullmatch(r"updates 1 open, the oldest for \d\.\d s", started(shown, "updates"))


async def test_processes_are_shown_with_what_they_have(
    postgres_database: URL, server: BotApiServer, bot: Bot, tmp_path: Path
) -> None:
    """Those that are silent for longer than the lease are told from those that live."""
    config = tmp_path / "config.toml"
    written = postgres_database.render_as_string(hide_password=False)
    config.write_text(f'[database]\nurl = "{written}"\n[delivery]\nlease = 60\n')
    ask = asker(config)
    async with kept(postgres_database, bot, lease=600) as app:
        await app.events.wait_for("member.joined")
        await app.sql(
            "INSERT INTO delivery__member VALUES (9, 'other:1', now() - interval '2 minutes')"
        )
        server.fail_next("sendMessage", error_code=429, retry_after=600)
        await say(app, "a")
        await app.events.wait_for("message.retried")
        _, shown = await ask()
        at = next(n for n, line in enumerate(shown) if line.startswith("processes"))
        alive, silent = (" ".join(line.split()) for line in shown[at : at + 2])
        assert re.fullmatch(
            rf"processes \S+:{os.getpid()}: alive, seen \d+\.\d s ago; has 1 message, 0 updates",
            alive,
        )
        assert silent == "other:1: silent for 2.0 min: dead?; has 0 messages, 0 updates"
        await app.sql("DELETE FROM delivery__member WHERE name <> 'other:1'")
        _, shown = await ask()
        assert shown[-1].strip() == "none is alive: what is open waits until the bot runs"


async def test_a_change_has_the_file_from_its_beginning(sqlite_database: URL) -> None:
    """Or SQLite would refuse it when the bot writes between what it reads and what it writes."""
    async with kept(sqlite_database):
        pass
    section = DatabaseConfig(url=SecretStr(sqlite_database.render_as_string()))
    with closing(sqlite3.connect(sqlite_database.database or "", timeout=0)) as bot:
        async with connected(section, is_named=True, reads=False):
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                bot.execute("BEGIN IMMEDIATE")
        async with connected(section, is_named=True, reads=True):
            bot.execute("BEGIN IMMEDIATE")


REFUSED = {
    "m9": "m9: there is no such message; it was sent longer than `keep_sent` ago, or dropped, or "
    "u9 is meant, an update",
    "m2": "m2 was sent",
    "m3": "m3 is open: a running bot sends it at its turn",
    "17": "17: write m17 for the message, u17 for the update, or b17 for the broadcast",
    "deed": "'deed' is no id (did you mean 'dead'?): write m17 for a message, u2041 for an update "
    "(u2041@42 for that of bot 42), b3 for a broadcast, or all that are dead, unknown, expired, "
    "parked",
    "u9": "u9: there is no such update; it was handled longer than `keep` ago, or m9 is meant, a "
    "message",
    "u0": "u0: there is no such update; it was handled longer than `keep` ago, or m0 is meant, a "
    "message",
    "u1": "u1 is done",
    "u2": "u2 is open: a running bot handles it at its turn",
    "u5": "u5: several bots have one; write u5@42 or u5@43",
    "u5@44": "u5@44: there is no such update; it was handled longer than `keep` ago, or m5 is "
    "meant, a message",
}


@pytest.mark.parametrize("verb", ["retry", "drop"])
async def test_a_wrong_id_is_refused_with_the_fix_and_changes_nothing(
    url: URL, bot: Bot, ask: Ask, verb: str
) -> None:
    """Neither that one nor the right ones beside it."""
    async with kept(url) as app:
        await app.sql(ENDED.format(bot=bot.id, now=now_of(url)))
        await app.sql(PARKED.format(now=now_of(url)))
        before = await app.rows(), await app.sql("SELECT * FROM delivery__inbox ORDER BY id")
        code, shown = await ask(verb, "m1", "u6", *REFUSED)
        after = await app.rows(), await app.sql("SELECT * FROM delivery__inbox ORDER BY id")
    assert code == 2
    first, *rest = shown
    assert [first.removeprefix("db-manager delivery: "), *rest] == [
        *REFUSED.values(),
        "nothing was changed",
    ]
    assert after == before
    word = "open again" if verb == "retry" else "dropped"
    assert await ask(verb, "u5@43", "u6", "m1") == (
        0,
        [f"u5@43: {word}", f"u6: {word}", f"m1: {word}"],
    )


async def test_without_tables_or_a_database_it_says_what_to_do(
    sqlite_database: URL, tmp_path: Path
) -> None:
    """And does not make a file that is not there."""
    config = tmp_path / "config.toml"
    name = sqlite_database.database or ""
    config.write_text(f'[database]\ndatabase = "{name}"\n')
    code, [shown] = await asker(config)()
    assert (code, await asyncio.to_thread(Path(name).exists)) == (2, False)
    assert shown.endswith(f"there is no database {name}; the bot makes it when it starts")
    await asyncio.to_thread(Path(name).touch)
    _, [shown] = await asker(config)()
    assert '[app] plugins = ["db_manager", "delivery"]' in shown
    named = '[app]\nplugins = ["db_manager", "delivery"]\n'
    config.write_text(f'{named}[database]\ndatabase = "{name}"\n')
    code, [shown] = await asker(config)("retry", "m1")
    assert code == 2
    assert "start it once (`db-manager check` says if it can)" in shown
    code, [shown] = await asker(config)("retry")
    assert (code, shown.partition("?")[0]) == (2, "db-manager delivery: retry what")


def test_the_command_does_not_import_aiogram(tmp_path: Path) -> None:
    """It takes seconds, and a machine without the bot's token may not have it."""
    config = tmp_path / "config.toml"
    config.write_text('[app]\nplugins = ["db_manager", "delivery"]\n')
    program = (
        "import sys; from observability.commands.cli import main\n"
        f"code = main(['delivery', '--config', {str(config)!r}])\n"
        "print(code, 'sqlalchemy' in sys.modules, 'aiogram' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True
    )
    assert run.stdout == "2 True False\n"
