"""The methods of the Bot API, on top of what `chats.Telegram` knows; no HTTP here."""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lifecycle.testing.telegram.calls import ApiCall, BotMessage, Json
from lifecycle.testing.telegram.chats import BotApiChat, Telegram
from lifecycle.testing.telegram.html import HtmlError, parse
from lifecycle.testing.telegram.params import checked
from lifecycle.testing.telegram.refusals import DESCRIPTIONS, RefusedError

_MAX_TEXT = 4096
_MOST_UPDATES = 100  # a limit that is none is this one
_LONGEST_POLL = 50  # seconds
_SHOWN = frozenset(("text", "entities", "caption", "caption_entities"))

# Methods whose only answer is True; the test reads in `calls` what they were called with.
_DONE = re.compile(
    "(set|delete|answer|pin|unpin|ban|unban|restrict|promote|approve|decline|close|reopen|hide"
    "|leave|log|sendChatAction|sendMessageDraft)",
    re.IGNORECASE,
)


class BotApi(Telegram):
    """What a bot can call.

    Args:
        me: The bot as `getMe` describes it.

    Attributes:
        me: The same.
        calls: Every call, in the order of arrival.
        webhook: What `setWebhook` set, `url` empty without one.
    """

    def __init__(self, me: Json) -> None:
        super().__init__()
        self.me = me
        self.calls: list[ApiCall] = []
        self.webhook: Json = {"url": ""}
        self._poll = 0  # number of the youngest getUpdates: only that one is served
        self._conflict = False
        self._commands: dict[str, Any] = {}
        self._methods: dict[str, Callable[[ApiCall], Any]] = {
            "getme": lambda _: self.me,
            "getupdates": self._get_updates,
            "setwebhook": self._set_webhook,
            "deletewebhook": self._set_webhook,
            "getwebhookinfo": lambda _: self._webhook_info(),
            "sendmessage": self._send_message,
            "sendmediagroup": self._send_media_group,
            "editmessagetext": self._edit,
            "editmessagecaption": self._edit,
            "editmessagereplymarkup": self._edit,
            "deletemessage": self._delete,
            "answercallbackquery": self._answer_callback_query,
            "setmycommands": self._set_my_commands,
            "getmycommands": lambda call: self._commands.get(_scope(call), []),
            "deletemycommands": self._delete_my_commands,
        }

    async def perform(self, method: str, params: Json, refusal: RefusedError | None = None) -> Json:
        """Perform one call of the bot and record it.

        Args:
            method: Name of the method, in any case.
            params: Decoded arguments.
            refusal: Error to answer with instead of doing anything.

        Returns:
            The answer, `{"ok": ..., ...}`.
        """
        call = ApiCall(method, params, self.clock())
        self.calls.append(call)
        try:
            if refusal is not None:
                raise refusal
            found = self._find(method)
            result = found(_checked(call))
            if asyncio.iscoroutine(result):
                result = await result
            answer: Json = {"ok": True, "result": result}
        except RefusedError as error:
            answer = error.answer
            self.log("Telegram", f"refuses {method}: {answer['error_code']} {error}")
        call.answer = answer
        self.notify()
        return answer

    def _find(self, method: str) -> Callable[[ApiCall], Any]:
        if found := self._methods.get(method.lower()):
            return found
        if _DONE.match(method):
            return lambda _: True
        if method.lower().startswith("send"):
            return self._send
        raise RefusedError(404, "Not Found: method not found")

    def end_polls(self, *, conflict: bool = True) -> None:
        """End the long poll that waits now.

        Args:
            conflict: It is told of another poll or a webhook; otherwise it just gets no updates.
        """
        self._conflict = conflict
        self._poll += 1
        self.notify()

    async def _get_updates(self, call: ApiCall) -> list[Json]:
        if self.webhook["url"]:
            raise RefusedError(
                409,
                "Conflict: can't use getUpdates method while webhook is active; "
                "use deleteWebhook to delete the webhook first",
            )
        self.end_polls()
        poll = self._poll
        params = call.params
        self.allowed_updates = params.get("allowed_updates", self.allowed_updates)
        offset = params.get("offset", 0)
        if offset < 0:
            del self.updates[:offset]
        else:
            self.updates[:] = [u for u in self.updates if u["update_id"] >= offset]
        with suppress(TimeoutError):
            async with asyncio.timeout(min(params.get("timeout", 0), _LONGEST_POLL)):
                while not self.updates and poll == self._poll:
                    await self.changed.wait()
        if poll != self._poll and not self._conflict:
            return []
        if poll != self._poll:
            raise RefusedError(409, DESCRIPTIONS[409])
        limit = params.get("limit", _MOST_UPDATES)
        return self.updates[: limit if 0 < limit < _MOST_UPDATES else _MOST_UPDATES]

    def _set_webhook(self, call: ApiCall) -> bool:
        params = call.params
        if params.get("drop_pending_updates"):
            self.updates.clear()
        self.allowed_updates = params.get("allowed_updates", self.allowed_updates)
        url = params.get("url", "") if call.method.lower() == "setwebhook" else ""
        self.webhook = {"url": url, "secret_token": params.get("secret_token", "")}
        self.end_polls()
        return True

    def _webhook_info(self) -> Json:
        hidden = {"secret_token"}
        known = {key: value for key, value in self.webhook.items() if key not in hidden}
        counts = {"has_custom_certificate": False, "pending_update_count": len(self.updates)}
        return {**known, **counts, "allowed_updates": self.allowed_updates}

    def _chat(self, call: ApiCall) -> BotApiChat:
        if "chat_id" not in call.params:
            raise RefusedError(400, "Bad Request: chat_id is empty")
        chat = self._chats.get(call.params["chat_id"])
        if chat is None:
            raise RefusedError(400, "Bad Request: chat not found")
        if chat.blocked:
            raise RefusedError(403, DESCRIPTIONS[403])
        return chat

    def _send_message(self, call: ApiCall) -> Json:
        self._chat(call)
        text = call.params.get("text", "")
        if not text.strip():
            raise RefusedError(400, "Bad Request: message text is empty")
        if len(text) > _MAX_TEXT:
            raise RefusedError(400, "Bad Request: message is too long")
        return self._send(call)

    def _send(self, call: ApiCall) -> Json:
        chat = self._chat(call)
        content = _content(call)
        markup = call.params.get("reply_markup", {})
        if "inline_keyboard" in markup:
            content["reply_markup"] = markup
        message = self.new_message(chat, {"from": self.me, **content})
        chat.unread.append(BotMessage(message, call))
        what = call.method.removeprefix("send").lower()
        said = content.get("text") or f"<{what}> {content.get('caption', '')}".rstrip()
        self.log(f"bot to {chat.name}", said)
        return message

    def _send_media_group(self, call: ApiCall) -> list[Json]:
        return [
            self._send(ApiCall(call.method, {**call.params, **media}, call.at))
            for media in call.params.get("media", [])
        ]

    def _message(self, call: ApiCall, action: str) -> Json:
        key = call.params.get("chat_id", 0), call.params.get("message_id", 0)
        if key not in self._messages:
            raise RefusedError(400, f"Bad Request: message to {action} not found")
        return self._messages[key]

    def _edit(self, call: ApiCall) -> Json | bool:
        if "inline_message_id" in call.params:
            return True
        message = self._message(call, "edit")
        if message["from"] != self.me:
            raise RefusedError(400, "Bad Request: message can't be edited")
        new = _content(call)
        if "reply_markup" in call.params:
            new["reply_markup"] = call.params["reply_markup"]
        old = {k: message[k] for k in (*_SHOWN, "reply_markup") if k in message}
        # An edit without markup takes the buttons away; one of the markup leaves the text.
        kept = {k: v for k, v in old.items() if k in _SHOWN and not new.keys() & _SHOWN}
        if kept | new == old:
            raise RefusedError(
                400,
                "Bad Request: message is not modified: specified new message content and reply "
                "markup are exactly the same as a current content and reply markup of the message",
            )
        for key in old:
            del message[key]
        message.update(kept | new, edit_date=message["date"])
        to = self._chats[message["chat"]["id"]].name
        shown = BotMessage(message, call)
        self.log(f"bot to {to}", f"<edited> {shown.text} {shown.buttons or ''}".rstrip())
        return message

    def _delete(self, call: ApiCall) -> bool:
        message = self._message(call, "delete")
        del self._messages[message["chat"]["id"], message["message_id"]]
        self.log("bot", f"deletes message {message['message_id']}")
        return True

    def _answer_callback_query(self, call: ApiCall) -> bool:
        query = str(call.params.get("callback_query_id"))
        if query not in self._queries:
            raise RefusedError(
                400,
                "Bad Request: query is too old and response timeout expired or query ID is invalid",
            )
        self._queries.remove(query)
        self.log("bot", f"<notice> {call.params.get('text', '')}".rstrip())
        return True

    def _delete_my_commands(self, call: ApiCall) -> bool:
        self._commands.pop(_scope(call), None)
        return True

    def _set_my_commands(self, call: ApiCall) -> bool:
        self._commands[_scope(call)] = call.params.get("commands", [])
        return True


def _checked(call: ApiCall) -> ApiCall:
    """Let *call* have arguments of the right types.

    Raises:
        RefusedError: An argument is not of the right type.
    """
    try:
        call.params = checked(call.params)
    except ValueError as error:
        raise RefusedError(400, f"Bad Request: {error}") from None
    return call


def _content(call: ApiCall) -> Json:
    """Return text or caption with its entities, as people see it.

    Raises:
        RefusedError: The HTML of the text cannot be parsed.
    """
    content: Json = {}
    for field, entities in (("text", "entities"), ("caption", "caption_entities")):
        if field not in call.params:
            continue
        content[field] = call.params[field]
        found = call.params.get(entities, [])
        if str(call.params.get("parse_mode")).lower() == "html":
            try:
                content[field], found = parse(call.params[field])
            except HtmlError as error:
                raise RefusedError(400, f"Bad Request: can't parse entities: {error}") from None
        if found:
            content[entities] = found
    return content


def _scope(call: ApiCall) -> str:
    keys = ("scope", "language_code")
    return json.dumps([call.params.get(key) for key in keys], sort_keys=True)
