"""Everything that a bot can call, and the record of what it called; no HTTP here."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from lifecycle.testing.telegram.calls import ApiCall, Json
from lifecycle.testing.telegram.files import KINDS, LARGEST
from lifecycle.testing.telegram.http.params import checked
from lifecycle.testing.telegram.http.refusals import RefusedError
from lifecycle.testing.telegram.methods.asking import Asking
from lifecycle.testing.telegram.methods.done import DONE

#: The other methods that send a message, besides those of files.
_SENDS: Final = ("contact", "location", "venue", "dice", "poll", "invoice")
#: What `getChat` says of every chat.
_CHAT: Final = {
    "accent_color_id": 0,
    "max_reaction_count": 11,
    "accepted_gift_types": dict.fromkeys(
        (
            "unlimited_gifts",
            "limited_gifts",
            "unique_gifts",
            "premium_subscription",
            "gifts_from_channels",
        ),
        False,
    ),
}


class BotApi(Asking):
    """What a bot can call.

    Args:
        me: The bot as `getMe` describes it.

    Attributes:
        me: The same.
        calls: Every call, in the order of arrival.
    """

    def __init__(self, me: Json) -> None:
        super().__init__(me)
        self.calls: list[ApiCall] = []
        self._commands: dict[str, Any] = {}
        self._methods: dict[str, Callable[[ApiCall], Any]] = {
            **dict.fromkeys(DONE, lambda _: True),
            **{f"send{kind.replace('_', '')}": self._send for kind in (*KINDS, *_SENDS)},
            "getme": lambda _: self.me,
            "getupdates": self._get_updates,
            "setwebhook": self._set_webhook,
            "deletewebhook": self._set_webhook,
            "getwebhookinfo": lambda _: self._webhook_info(),
            "sendmessage": self._send_message,
            "sendmediagroup": self._send_media_group,
            "forwardmessage": self._forward,
            "copymessage": self._copy,
            "editmessagetext": self._edit,
            "editmessagecaption": self._edit,
            "editmessagemedia": self._edit,
            "editmessagereplymarkup": self._edit,
            "deletemessage": self._delete,
            "answercallbackquery": self._answer_callback_query,
            "answerinlinequery": self._answer_inline_query,
            "answerprecheckoutquery": self._answer_pre_checkout_query,
            "createinvoicelink": self._create_invoice_link,
            "getfile": self._get_file,
            "getchat": lambda call: self._chat(call).json | _CHAT,
            "getuserprofilephotos": lambda _: {"total_count": 0, "photos": []},
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

    def answer_with(self, method: str, result: Any) -> None:
        """Answer every further call of a method with a result of the test's own.

        Args:
            method: `getChatMember`, in any case; also one that is not known here.
            result: What the Bot API would give as `result`, or a function that makes it of the
                `ApiCall`.
        """
        self._methods[method.lower()] = result if callable(result) else lambda _: result

    def _find(self, method: str) -> Callable[[ApiCall], Any]:
        found = self._methods.get(method.lower())
        if found is None:
            raise RefusedError(
                404,
                f"Not Found: the local Bot API server does not play {method[:64]!r}; give it an "
                f"answer in the test: telegram.answer_with({method[:64]!r}, …)",
            )
        return found

    def _get_file(self, call: ApiCall) -> Json:
        file_id = call.params.get("file_id", "")
        file = self.files.get(file_id)
        if file is None:
            raise RefusedError(
                400, "Bad Request: wrong file_id or the file is temporarily unavailable"
            )
        if len(file.content) > LARGEST:
            raise RefusedError(400, "Bad Request: file is too big")
        return self.files.to_download(file_id)

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


def _scope(call: ApiCall) -> str:
    keys = ("scope", "language_code")
    return json.dumps([call.params.get(key) for key in keys], sort_keys=True)
