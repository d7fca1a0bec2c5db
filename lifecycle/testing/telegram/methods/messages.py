"""Messages of the bot: sent, edited, deleted, forwarded and copied."""

from typing import Final

from lifecycle.testing.telegram.calls import ApiCall, Json
from lifecycle.testing.telegram.files import KINDS
from lifecycle.testing.telegram.http.refusals import DESCRIPTIONS, RefusedError
from lifecycle.testing.telegram.methods.content import (
    CONTENT,
    album_part,
    content_of,
    without_caption,
)
from lifecycle.testing.telegram.methods.receiving import Receiving
from lifecycle.testing.telegram.people.chats import BotApiChat

_MAX_TEXT: Final = 4096
_SHOWN: Final = frozenset(("text", "entities", "caption", "caption_entities"))


class Messages(Receiving):
    """The methods that send and change messages."""

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
        content = content_of(call, self.files)
        markup = call.params.get("reply_markup", {})
        if "inline_keyboard" in markup:
            content["reply_markup"] = markup
        return self._put(chat, content, call)

    def _put(self, chat: BotApiChat, content: Json, call: ApiCall) -> Json:
        message = self.new_message(chat, {"from": self.me, **content})
        chat.unread.append(self.bot_message(message, call))
        what = call.method.removeprefix("send").lower()
        said = content.get("text") or f"<{what}> {content.get('caption', '')}".rstrip()
        self.log(f"bot to {chat.name}", said)
        return message

    def _send_media_group(self, call: ApiCall) -> list[Json]:
        media = call.params.get("media")
        if not isinstance(media, list) or not media:
            raise RefusedError(400, "Bad Request: there is no media in the request")
        chat = self._chat(call)
        album = {"media_group_id": str(self._last_message + 1)}
        contents = [album_part(each, call, self.files) for each in media]
        return [self._put(chat, {**content, **album}, call) for content in contents]

    def _forward(self, call: ApiCall) -> Json:
        original = self._original(call)
        content = {key: value for key, value in original.items() if key in CONTENT}
        source = {"type": "user", "date": original["date"], "sender_user": original["from"]}
        return self._put(self._chat(call), {**content, "forward_origin": source}, call)

    def _copy(self, call: ApiCall) -> Json:
        content = {key: value for key, value in self._original(call).items() if key in CONTENT}
        if "caption" in call.params:
            content = {**without_caption(content), **content_of(call, self.files)}
        markup = call.params.get("reply_markup", {})
        if "inline_keyboard" in markup:
            content["reply_markup"] = markup
        return {"message_id": self._put(self._chat(call), content, call)["message_id"]}

    def _original(self, call: ApiCall) -> Json:
        key = call.params.get("from_chat_id", 0), call.params.get("message_id", 0)
        if key not in self._messages:
            raise RefusedError(400, "Bad Request: message to forward not found")
        return self._messages[key]

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
        new = content_of(call, self.files)
        if "reply_markup" in call.params:
            new["reply_markup"] = call.params["reply_markup"]
        replaced = {*_SHOWN, *KINDS} if new.keys() & KINDS.keys() else _SHOWN
        old = {k: message[k] for k in (*replaced, "reply_markup") if k in message}
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
        shown = self.bot_message(message, call)
        self.log(f"bot to {to}", f"<edited> {shown.text} {shown.buttons or ''}".rstrip())
        return message

    def _delete(self, call: ApiCall) -> bool:
        message = self._message(call, "delete")
        del self._messages[message["chat"]["id"], message["message_id"]]
        self.log("bot", f"deletes message {message['message_id']}")
        return True
