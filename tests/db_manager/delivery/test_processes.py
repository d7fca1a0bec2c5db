"""Several processes with one outbox, and one that died, stopped, or was thought to be dead."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiogram import Bot
from aiogram.methods import SendMessage
from sqlalchemy import text
from sqlalchemy.engine import URL
from support.kept import Kept, client, kept

from db_manager.delivery.delivery_plugin import DeliveryPlugin
from db_manager.delivery.table.claims import Claimed, Claims
from db_manager.engine.one_writer import OneWriter
from db_manager.errors import CommitOutcomeUnknownError, UnitOfWorkStateError
from db_manager.testing import Faults, Sandbox
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.testing import BotApiServer

_ROW = """
INSERT INTO delivery__outbox
    (bot_id, lane, method, payload, once, begun, due_at, attempts, state, owner, created_at)
VALUES (42, :lane, 'sendMessage', :payload, :once, :once, {now}, 0, 0, 999, {now})
"""


def said(server: BotApiServer) -> dict[int, list[str]]:
    """Return the texts that each chat got, in order."""
    found: dict[int, list[str]] = {}
    for call in server.calls:
        if call.method == "sendMessage" and call.answer is not None and call.answer["ok"]:
            found.setdefault(int(call.params["chat_id"]), []).append(call.params["text"])
    return found


async def say(app: Kept, chat: int, *words: str, once: bool = False) -> None:
    """Send messages in one unit."""
    async with app.units() as uow:
        for each in words:
            uow.send(SendMessage(chat_id=chat, text=each), once=once)


async def leave_behind(app: Kept, url: URL) -> None:
    """Write what a process that is gone had claimed: two messages, one with `once`."""
    now = "now()" if url.get_backend_name() == "postgresql" else "unixepoch()"
    for chat, once in ((7, False), (8, True)):
        payload = f'{{"chat_id": {chat}, "text": "left"}}'
        await app.sql(_ROW.format(now=now), lane=f"42:{chat}", payload=payload, once=once)


async def test_three_processes_keep_the_order_of_each_chat(
    postgres_database: URL, server: BotApiServer
) -> None:
    """Whoever writes: each message is sent once, after those that were committed before it."""
    async with AsyncExitStack() as stack:
        apps = []
        for _ in range(3):
            bot = await stack.enter_async_context(client(server))
            app = await stack.enter_async_context(kept(postgres_database, bot, poll=0.05))
            await app.events.wait_for("member.joined")
            apps.append(app)

        async def talk(chat: int) -> None:
            for n in range(15):
                await say(apps[(chat + n) % 3], chat, f"{n}.a", f"{n}.b")

        await asyncio.gather(*(talk(chat) for chat in (7, 8, 9)))
        await apps[0].settled()
        sent = [len(app.of("message.sent")) for app in apps]
    expected = [f"{n}.{part}" for n in range(15) for part in "ab"]
    assert said(server) == dict.fromkeys((7, 8, 9), expected)
    assert sum(sent) == 3 * 30
    assert min(sent) > 0


async def test_what_a_dead_process_had_is_sent_by_another(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """Except for a message with `once`, which it may have sent: that is unknown."""
    async with kept(url) as writer:
        await leave_behind(writer, url)
    async with kept(url, bot, lease=0.5) as app:
        await app.settled()
        assert await app.rows("state, owner") == [(1, None), (3, None)]
        assert [event.count for event in app.of("lane.recovered")] == [1]
        assert len(app.of("message.unknown")) == 1
    assert said(server) == {7: ["left"]}


async def test_nobody_is_judged_before_the_database_was_there_for_a_lease(
    postgres_database: URL, bot: Bot
) -> None:
    """A process that has just come waits: after an outage everybody looks dead."""
    async with kept(postgres_database) as writer:
        await leave_behind(writer, postgres_database)
        async with kept(postgres_database, bot, lease=600) as app:
            await say(app, 9, "mine")

            async def is_sent() -> bool:
                rows = await app.rows("state, owner")
                assert rows[:2] == [(0, 999), (0, 999)]
                return rows[2] == (1, None)

            await app.until(is_sent)


async def test_a_process_that_was_thought_dead_joins_anew(
    postgres_database: URL, server: BotApiServer, bot: Bot
) -> None:
    """It drops what it had, for others may have it, and goes on with another number."""
    async with kept(postgres_database, bot, lease=1) as app:
        await app.events.wait_for("member.joined")
        server.fail_next("sendMessage", error_code=429, retry_after=2)
        await say(app, 7, "a")
        await app.events.wait_for("message.retried")
        await app.sql("DELETE FROM delivery__member")
        await app.events.wait_for("member.expelled")
        await say(app, 8, "b")
        await app.settled()
        assert len(app.of("member.joined")) == 2
    assert said(server) == {7: ["a"], 8: ["b"]}


async def test_a_process_that_is_not_sure_sends_nothing(
    postgres_database: URL, server: BotApiServer, bot: Bot
) -> None:
    """Before each message it asks its own clock whether others may think it dead."""
    async with kept(postgres_database, bot, lease=600) as app:
        await app.events.wait_for("member.joined")
        plugin: Any = app.app.plugins["delivery"].plugin
        assert isinstance(plugin, DeliveryPlugin)
        member: Any = plugin._member
        member._seen_at -= 0.8 * 600
        await say(app, 7, "a")
        await asyncio.sleep(0.5)  # several looks at the table
        assert await app.rows("state, owner") == [(0, None)]
        await member.pulse()
        await app.settled()
    assert said(server) == {7: ["a"]}


async def test_what_is_not_sent_at_a_stop_is_sent_after_the_next_start(
    url: URL, server: BotApiServer, bot: Bot
) -> None:
    """Claims are given back; of a message with `once` it is known that it was not sent."""
    async with kept(url, bot) as app:
        await server.stop()
        await say(app, 7, "a", "b", once=True)
        await app.events.wait_for("message.retried")
    async with kept(url) as reader:
        assert await reader.rows("state, owner, begun") == [(0, None, False)] * 2
        if url.get_backend_name() == "postgresql":
            assert await reader.sql("SELECT id FROM delivery__member") == []
    await server.start()
    async with kept(url, bot, lease=600) as app:
        await app.settled()
    assert said(server) == {7: ["a", "b"]}


async def test_what_telegram_has_not_answered_at_a_stop_is_waited_for(
    url: URL, bot: Bot, patient: dict[str, float]
) -> None:
    """A message in flight at the end is not cut off, which would send it twice."""
    taken, go_on = asyncio.Event(), asyncio.Event()

    async def slow(make_request: Any, bot: Bot, method: SendMessage) -> Any:
        answer = await make_request(bot, method)
        taken.set()
        await go_on.wait()
        return answer

    bot.session.middleware(slow)  # type: ignore[arg-type]  # of one method
    async with kept(url, bot, app=patient) as app:
        await say(app, 7, "a", "b")
        await taken.wait()
        asyncio.get_running_loop().call_later(0.7, go_on.set)
    async with kept(url, app=patient) as reader:
        assert (await reader.rows("state"))[0] == (1,)


@pytest.mark.parametrize("which", ["end", "claim", "claim_in"])
async def test_a_lost_answer_of_the_database_loses_no_message(
    url: URL, server: BotApiServer, bot: Bot, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was claimed or marked, and nobody heard of, is found in the table."""
    method = getattr(Claims, which)
    lost: list[object] = []

    async def lose(self: Claims, *given: Any) -> list[Claimed]:
        answer: list[Claimed] = await method(self, *given)
        if len(lost) < 3 and (answer or which == "end"):
            lost.append(answer)
            raise ConnectionResetError
        return answer

    monkeypatch.setattr(Claims, which, lose)
    async with kept(url) as writer:
        for n in range(3):
            async with writer.units() as uow:
                uow.send(SendMessage(chat_id=7, text=f"early {n}").as_(bot))
    async with kept(url, bot) as app:
        await app.settled()
        for n in range(5):
            await say(app, 7, f"{n}")
        await app.settled()
        if which != "claim_in":
            assert lost
    expected = [*(f"early {n}" for n in range(3)), *(f"{n}" for n in range(5))]
    assert said(server) == {7: expected}


@pytest.mark.parametrize("committed", [True, False])
async def test_a_unit_whose_outcome_is_unknown_decides_by_itself(
    sandbox: Sandbox, faults: Faults, server: BotApiServer, bot: Bot, *, committed: bool
) -> None:
    """Its message is sent if it was committed; who waits for it learns that it was not."""
    app = sandbox.application(DeliveryPlugin, config={"delivery": {"poll": 0.2}})
    app.services.provide("aiogram:bots", (bot,))
    async with app:
        units: UnitOfWorkFactory = app.services["db_manager:uow_factory"]
        async with units() as uow:
            first = uow.send(SendMessage(chat_id=7, text="a"))
        await first
        faults.lose_commit(committed=committed)
        with pytest.raises(CommitOutcomeUnknownError):
            async with units() as uow:
                sending = uow.send(SendMessage(chat_id=7, text="b"))
        async with units() as uow:
            last = uow.send(SendMessage(chat_id=7, text="c"))
        if committed:
            await sending
        else:
            with pytest.raises(UnitOfWorkStateError, match="dropped"):
                await sending
        await last
    assert said(server) == {7: ["a", "b", "c"] if committed else ["a", "c"]}


async def test_a_process_that_is_not_sure_sends_nothing_that_it_has(
    postgres_database: URL, server: BotApiServer, bot: Bot
) -> None:
    """What it had claimed before waits until it knows that nobody else has it."""
    async with kept(postgres_database, bot, lease=600) as app:
        await app.events.wait_for("member.joined")
        server.fail_next("sendMessage", error_code=429, retry_after=1)
        await say(app, 7, "a")
        await app.events.wait_for("message.retried")
        plugin: Any = app.app.plugins["delivery"].plugin
        plugin._member._seen_at -= 0.8 * 600
        await asyncio.sleep(1.5)  # longer than Telegram wants
        assert said(server) == {}
        await plugin._member.pulse()
        await app.settled()
    assert said(server) == {7: ["a"]}


async def test_marks_do_not_wait_for_handlers(
    postgres_database: URL, server: BotApiServer, bot: Bot
) -> None:
    """The relay has connections of its own: handlers that hold all others may wait for it."""
    pool = {"pool_size": 1, "max_overflow": 0}
    async with kept(postgres_database, bot, database=pool) as app:
        async with app.units() as uow:
            first = uow.send(SendMessage(chat_id=7, text="a"))
            last = uow.send(SendMessage(chat_id=7, text="b"))
        async with app.units() as uow:
            await uow.session.execute(text("SELECT 1"))  # now there is no other one
            await first
            await last
            levels: Any = app.app.probes["delivery:outbox"]

            async def is_marked() -> bool:
                return bool(levels()["held"] == levels()["window"] == 0)

            await app.until(is_marked)
    assert said(server) == {7: ["a", "b"]}


async def test_what_is_committed_while_an_earlier_message_is_marked_follows_it_at_once(
    postgres_database: URL, server: BotApiServer, bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that saw the earlier one open does not wait for the next look at the table."""
    end = Claims.end

    async def end_and_say(self: Claims, *given: Any) -> list[Claimed]:
        monkeypatch.undo()
        following = await end(self, *given)
        monkeypatch.setattr(Claims, "write", write_behind)  # its statement began before
        await say(app, 7, "b")
        monkeypatch.undo()
        return following

    async def write_behind(self: Claims, connection: Any, rows: Any, *_: Any) -> Any:
        return await write(self, connection, rows, 0, 0, ())

    write = Claims.write
    async with kept(postgres_database, bot, poll=60) as app:
        await app.events.wait_for("member.joined")
        monkeypatch.setattr(Claims, "end", end_and_say)
        await say(app, 7, "a")

        async def has_both() -> bool:
            return said(server) == {7: ["a", "b"]}

        await app.until(has_both)


async def test_what_is_sent_is_marked_after_an_outage(
    postgres_database: URL, server: BotApiServer, bot: Bot
) -> None:
    """Whether the process is sure by then, or not: nobody else has what it has sent."""
    async with kept(postgres_database, bot, lease=600) as app:
        await app.events.wait_for("member.joined")
        plugin: Any = app.app.plugins["delivery"].plugin

        def doubt(_: object) -> None:
            plugin._member._seen_at -= 0.8 * 600

        app.app.bus.subscribe("message.sent", doubt)
        await say(app, 7, "a")
        await app.settled()
    assert said(server) == {7: ["a"]}


async def test_marks_go_before_units_that_wait(
    sqlite_database: URL, server: BotApiServer, bot: Bot
) -> None:
    """Where one writes at a time, a kill repeats what is not marked: nobody overtakes a mark."""
    async with kept(sqlite_database, bot, poll=60) as app:
        line = OneWriter.of(app.app.services["db_manager:engine"].dialect)
        await say(app, 7, "a")
        await app.settled()  # the first look at the table is over, and the next is far away
        seen = []

        async def look() -> None:
            async with app.units() as uow:
                states = await uow.connection.execute(text("SELECT state FROM delivery__outbox"))
                seen.append(list(states.scalars()))

        async with app.units() as uow:
            sending = uow.send(SendMessage(chat_id=7, text="b"))
        async with asyncio.TaskGroup() as others, app.units() as uow:
            await uow.connection.execute(text("SELECT 1"))  # now it is the one that writes
            for _ in range(3):
                others.create_task(look())
            await sending

            async def all_wait() -> bool:
                return line.waiting == 3 + 1

            await app.until(all_wait)
    assert seen == [[1, 1]] * 3
    assert said(server) == {7: ["a", "b"]}
