"""How updates come in: aiogram's polling, and webhooks."""

import hmac
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

from aiogram import Bot, Dispatcher
from aiogram.dispatcher.middlewares.error import ErrorsMiddleware
from aiogram.dispatcher.middlewares.user_context import UserContextMiddleware
from aiogram.methods import GetUpdates
from aiogram.types import Update
from aiohttp import web

from db_manager.delivery.inbox.handling import Retrying
from db_manager.delivery.inbox.inbox import Inbox

#: The inbox of each bot, by its identity: two applications may run the same one.
_INBOXES: Final[dict[int, tuple[Inbox, str]]] = {}
_SECRET: Final = "X-Telegram-Bot-Api-Secret-Token"  # noqa: S105 -- the name of a header


@contextmanager
def receiving(
    inbox: Inbox, dispatcher: Dispatcher, bots: Mapping[int, Bot], order: str
) -> Iterator[None]:
    """Store what comes for these bots in *inbox* during the block.

    Args:
        inbox: Where.
        dispatcher: Handles it; its error handlers see only the last failure.
        bots: The bots.
        order: Whose updates are handled in order: of a `chat`, of a `user` in it, or `none`.
    """

    async def store_polled(make_request: Any, bot: Bot, method: Any) -> Any:
        """Store what getUpdates brings; aiogram's loop only goes on asking."""
        if not isinstance(method, GetUpdates) or bot.id not in bots:
            return await make_request(bot, method)
        if not await inbox.may_poll(bot):
            return []
        answer = await inbox.while_it_polls(bot, make_request(bot, method))
        if answer:
            await inbox.receive([_row(bot, update, order) for update in answer])
            method.offset = answer[-1].update_id + 1  # what the next call says, Telegram forgets
        return []

    retrying = Retrying()
    _put_inside_of_errors(dispatcher, retrying)
    sessions = {id(bot.session): bot.session for bot in bots.values()}
    for bot in bots.values():
        _INBOXES[id(bot)] = inbox, order
    for session in sessions.values():
        session.middleware(store_polled)
    try:
        yield
    finally:
        for session in sessions.values():
            session.middleware.unregister(store_polled)
        for bot in bots.values():
            del _INBOXES[id(bot)]
        dispatcher.update.outer_middleware.unregister(retrying)


def webhook(
    bot: Bot, *, secret_token: str | None = None
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler of aiohttp that stores updates of *bot*, and then answers Telegram.

        app.router.add_post("/hook", webhook(bot, secret_token="..."))

    It answers 503 while the update cannot be stored: Telegram repeats it.

    Added in 0.2.

    Args:
        bot: The bot.
        secret_token: What `set_webhook` was given; None lets everybody in.
    """

    async def receive(request: web.Request) -> web.Response:
        given = request.headers.get(_SECRET, "")
        if secret_token is not None and not hmac.compare_digest(
            given.encode(), secret_token.encode()
        ):
            return web.Response(status=401)
        try:
            update = Update.model_validate_json(await request.read(), context={"bot": bot})
        except ValueError:
            return web.Response(status=400)
        found = _INBOXES.get(id(bot))
        if found is None:
            return web.Response(status=503)
        try:
            await found[0].receive([_row(bot, update, found[1])])
        except Exception:  # noqa: BLE001 -- whatever it is, Telegram has to send it again
            return web.Response(status=503)
        return web.Response()

    return receive


def _row(bot: Bot, update: Update, order: str) -> dict[str, Any]:
    return {
        "bot_id": bot.id,
        "update_id": update.update_id,
        "lane": _lane(bot, update, order),
        "payload": update.model_dump_json(exclude_unset=True, by_alias=True),
    }


def _lane(bot: Bot, update: Update, order: str) -> str:
    context = UserContextMiddleware.resolve_event_context(update)
    chat, user = context.chat_id, context.user_id
    if order == "none" or (chat is None and user is None):
        return f"{bot.id}:-{uuid4().hex}"
    if order == "user" and chat is not None and user is not None:
        return f"{bot.id}:{chat}:{user}"
    return f"{bot.id}:{user if chat is None else chat}"


def _put_inside_of_errors(dispatcher: Dispatcher, middleware: Retrying) -> None:
    manager = dispatcher.update.outer_middleware
    others = list(manager)
    at = next((n for n, each in enumerate(others) if isinstance(each, ErrorsMiddleware)), -1)
    for each in others[at + 1 :]:
        manager.unregister(each)
    inner: list[Any] = [middleware, *others[at + 1 :]]
    for each in inner:
        manager.register(each)
