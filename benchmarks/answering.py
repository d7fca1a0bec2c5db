"""Bots that write a row and answer: at once, through the outbox, through inbox and outbox."""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, NamedTuple

from aiogram import Bot, Dispatcher
from aiogram.methods import GetUpdates
from aiogram.types import Message, Update
from sqlalchemy import MetaData
from sqlalchemy.engine import URL

from benchmarks import contenders
from benchmarks.contenders import POOL
from benchmarks.statements import CORE_PARTS, INSERT
from benchmarks.telegram import PEOPLE
from db_manager import UnitOfWorkFactory
from db_manager.delivery import DeliveryPlugin
from db_manager.plugin import DatabasePlugin
from lifecycle import Application
from lifecycle.bot import attach

DIRECT: Final = "unit, then message.answer()"
OUTBOX: Final = "outbox: uow.send"
BOTH: Final = "inbox and outbox"
RIVAL: Final = "faststream-outbox"
LOCKS: Final = "procrastinate, a lock for each chat"
_QUEUE: Final = "messages"
#: As many as our window has places; each holds a connection.
_WORKERS: Final = 20
#: Seconds between two looks of procrastinate, by default five: whoever ends a job wakes nobody who
#: waits for its lock.
_OFTEN: Final = 0.02

#: Lets a person write, and returns when the answer has arrived.
Reply = Callable[[int], Awaitable[object]]


class Answerer(NamedTuple):
    """A bot that answers.

    Args:
        reply: Lets a person write.
        app: Its application.
    """

    reply: Reply
    app: Application


_write = CORE_PARTS[INSERT]
_numbers = itertools.count(1)


def written_by(chat: int) -> dict[str, Any]:
    """Return an update as Telegram sends it."""
    number = next(_numbers)
    person = {"id": chat, "is_bot": False, "first_name": "A"}
    where = {"id": chat, "type": "private"}
    message = {"message_id": number, "date": 1_800_000_000, "chat": where, "from": person}
    return {"update_id": number, "message": {**message, "text": "hello"}}


def in_chats(reply: Reply, count: int) -> Callable[[], Awaitable[None]]:
    """Return *reply* as a case, in one of the first *count* chats where nobody waits."""
    chats: asyncio.Queue[int] = asyncio.Queue()
    for chat in PEOPLE[:count]:
        chats.put_nowait(chat)

    async def case() -> None:
        chat = await chats.get()
        await reply(chat)
        chats.put_nowait(chat)

    return case


@asynccontextmanager
async def running(
    url: URL, bot: Bot, dispatcher: Dispatcher, delivery: dict[str, Any] | None
) -> AsyncIterator[Application]:
    """Run the application of a bot during the block.

    Args:
        url: Its database.
        bot: The bot.
        dispatcher: Its handlers.
        delivery: Keys of the section [delivery]; None is without the plugin.
    """
    database = {
        "url": url.render_as_string(hide_password=False),
        "pool_size": POOL,
        "max_overflow": 0,
        "drift": "ignore",
    }
    config: dict[str, Any] = {"app": {"journal": "memory"}, "database": database}
    plugins: list[Any] = [DatabasePlugin]
    if delivery is not None:
        plugins.append(DeliveryPlugin)
        config["delivery"] = delivery
    app = Application(plugins, config=config)
    attach(app, dispatcher)
    await dispatcher.emit_startup(bot=bot)
    try:
        yield app
    finally:
        await dispatcher.emit_shutdown(bot=bot)


async def direct(stack: AsyncExitStack, url: URL, bot: Bot) -> Answerer:
    """Return what one writes without the plugin: a kill after the unit loses the answer."""
    dispatcher = Dispatcher()

    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            await _write(uow.session)
        await message.answer("Noted.")

    dispatcher.message.register(handle)
    app = await stack.enter_async_context(running(url, bot, dispatcher, None))
    return Answerer(lambda chat: _feed(dispatcher, bot, chat), app)


async def outbox(stack: AsyncExitStack, url: URL, bot: Bot, **keys: Any) -> Answerer:
    """Return an answer that is a row of the unit."""
    dispatcher = Dispatcher()
    receipts: dict[int, Any] = {}

    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            await _write(uow.session)
            receipts[message.chat.id] = uow.send(message.answer("Noted."))

    async def reply(chat: int) -> None:
        await _feed(dispatcher, bot, chat)
        await receipts.pop(chat)

    dispatcher.message.register(handle)
    settings = {"fsm": False, **keys}
    app = await stack.enter_async_context(running(url, bot, dispatcher, settings))
    return Answerer(reply, app)


async def both(stack: AsyncExitStack, url: URL, bot: Bot, **keys: Any) -> Answerer:
    """Return an answer to an update that is stored before Telegram hears that it arrived.

    The update comes as polling brings it, but for its way through the network.
    """
    dispatcher = Dispatcher()
    handled: dict[int, asyncio.Future[Any]] = {}
    incoming: deque[Update] = deque()
    polls = asyncio.Event()

    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            await _write(uow.session)
            receipt = uow.send(message.answer("Noted."))
        handled.pop(message.chat.id).set_result(receipt)

    async def bring(make_request: Any, bot: Bot, method: Any) -> Any:
        if isinstance(method, GetUpdates):
            polls.set()
            return [incoming.popleft()] if incoming else []
        return await make_request(bot, method)

    async def reply(chat: int) -> None:
        handled[chat] = future = asyncio.get_running_loop().create_future()
        incoming.append(Update.model_validate(written_by(chat), context={"bot": bot}))
        await bot(GetUpdates())
        await (await future)

    dispatcher.message.register(handle)
    settings = {"fsm": False, "inbox": True, **keys}
    app = await stack.enter_async_context(running(url, bot, dispatcher, settings))
    bot.session.middleware(bring)  # inside of the plugin's
    stack.callback(bot.session.middleware.unregister, bring)
    while not polls.is_set():  # it waits a moment until this process is the one that polls
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await bot(GetUpdates())
    return Answerer(reply, app)


async def rival(stack: AsyncExitStack, url: URL, bot: Bot) -> Answerer:
    """Return an answer through faststream-outbox, whose rows are written in our units.

    It has as many workers as our outbox has places in its window; the order of a chat is not kept.
    """
    from faststream_outbox import OutboxBroker, make_outbox_table  # noqa: PLC0415 -- of the group `bench`

    engine = contenders.engine(stack, url, pool_size=_WORKERS + 1)
    metadata = MetaData()
    table = make_outbox_table(metadata)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    broker = OutboxBroker(engine, outbox_table=table, logger=None)
    dispatcher = Dispatcher()
    sent: dict[int, asyncio.Future[Any]] = {}

    async def send(body: dict[str, Any]) -> None:
        answer = await bot.send_message(body["chat"], body["text"])
        sent.pop(body["chat"]).set_result(answer)

    broker.subscriber(_QUEUE, max_workers=_WORKERS)(send)

    async def handle(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        async with uow_factory() as uow:
            await _write(uow.session)
            body = {"chat": message.chat.id, "text": "Noted."}
            await broker.publish(body, queue=_QUEUE, session=uow.session)

    async def reply(chat: int) -> None:
        sent[chat] = future = asyncio.get_running_loop().create_future()
        await _feed(dispatcher, bot, chat)
        await future

    dispatcher.message.register(handle)
    app = await stack.enter_async_context(running(url, bot, dispatcher, None))
    await broker.start()
    stack.push_async_callback(broker.stop)
    return Answerer(reply, app)


async def locks(stack: AsyncExitStack, url: URL, bot: Bot) -> Answerer:
    """Return an answer by procrastinate: an update is a job with its chat's lock, so is a message.

    That keeps the order of a chat, and what is told of an update in its unit. It has as many
    workers as our outbox has places in its window.
    """
    from procrastinate import App, PsycopgConnector  # noqa: PLC0415 -- of the group `test`

    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    jobs = App(connector=PsycopgConnector(conninfo=plain, max_size=_WORKERS + 1))
    await stack.enter_async_context(jobs.open_async())
    await jobs.schema_manager.apply_schema_async()
    dispatcher = Dispatcher()
    sent: dict[int, asyncio.Future[Any]] = {}

    @jobs.task(name="handle")
    async def handle(update: dict[str, Any]) -> None:
        await dispatcher.feed_update(bot, Update.model_validate(update, context={"bot": bot}))

    @jobs.task(name="send")
    async def send(chat: int, text: str) -> None:
        answer = await bot.send_message(chat, text)
        sent.pop(chat).set_result(answer)

    async def answer(message: Message, uow_factory: UnitOfWorkFactory) -> None:
        chat = message.chat.id
        async with uow_factory() as uow:
            await _write(uow.session)
            job = send.configure(lock=f"to {chat}", connection=await uow.driver())
            await job.defer_async(chat=chat, text="Noted.")

    async def reply(chat: int) -> None:
        sent[chat] = future = asyncio.get_running_loop().create_future()
        await handle.configure(lock=f"of {chat}").defer_async(update=written_by(chat))
        await future

    dispatcher.message.register(answer)
    mine = url.set(drivername="postgresql+psycopg")
    app = await stack.enter_async_context(running(mine, bot, dispatcher, None))
    work = jobs.run_worker_async(
        concurrency=_WORKERS,
        fetch_job_polling_interval=_OFTEN,
        delete_jobs="always",
        install_signal_handlers=False,
    )
    working = asyncio.create_task(work)

    async def stop() -> None:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working

    stack.push_async_callback(stop)
    return Answerer(reply, app)


async def _feed(dispatcher: Dispatcher, bot: Bot, chat: int) -> None:
    update = Update.model_validate(written_by(chat), context={"bot": bot})
    await dispatcher.feed_update(bot, update)
