"""A person who talks with the bot: presses its buttons, asks inline, pays, blocks it."""

import time
from typing import Any, Final, overload

from lifecycle.testing.telegram.answers import CallbackAnswer, InlineAnswer, Payment
from lifecycle.testing.telegram.calls import BotMessage, Json
from lifecycle.testing.telegram.people.chats import BotApiChat
from lifecycle.testing.telegram.people.sender import Sender

#: What the bot is in a private chat, and what it is when its person has blocked it.
_MEMBER: Final[Json] = {"status": "member"}
_KICKED: Final[Json] = {"status": "kicked", "until_date": 0}


class BotApiUser(Sender):
    """A person and the private chat with the bot; made by `BotApiServer.user`.

    Attributes:
        sender: The user as the Bot API describes it.
    """

    @overload
    async def press(self, button: str, /, *, chat: BotApiChat | None = None) -> CallbackAnswer: ...

    @overload
    async def press(self, message: BotMessage, button: str, /) -> CallbackAnswer: ...

    async def press(
        self,
        what: BotMessage | str,
        button: str | None = None,
        /,
        *,
        chat: BotApiChat | None = None,
    ) -> CallbackAnswer:
        """Press an inline button: `press("Buy")`, or `press(message, "Buy")` on a certain message.

        Args:
            what: The message of the bot that has the button; without one the last that has it.
            button: Label of the button, or its callback data.
            chat: Where to look for it; the private chat when not given.

        Returns:
            What the bot answered; its `update` is the number of the update.

        Raises:
            ValueError: There is no such button, or several, or it sends nothing to the bot.
        """
        if isinstance(what, BotMessage):
            wanted, messages = str(button), [what]
        else:
            shown = map(self._telegram.bot_message, self._of_bot(chat or self))
            wanted, messages = what, [each for each in shown if each.inline_keyboard]
        message = next((each for each in messages if _found(each, wanted)), None)
        if message is None:
            there = messages[0].buttons if messages else {}
            raise ValueError(f"no button {wanted!r}; there are {there}")
        found = _found(message, wanted)
        data = _data(found, wanted)
        self._telegram.log(self.name, f"presses {found[0]['text']!r}")
        number, query = self._telegram.new_query("callback_query")
        update = await self._telegram.deliver(
            callback_query={
                "id": number,
                "from": self.sender,
                "chat_instance": str(message.json["chat"]["id"]),
                "message": message.json,
                "data": data,
            }
        )
        return CallbackAnswer(update, query, self._telegram.wait_for_answer)

    async def ask_inline(self, text: str, *, offset: str = "") -> InlineAnswer:
        """Write `@bot text` in some chat, and see what the bot offers.

        Args:
            text: What is looked for.
            offset: Where to go on, the bot's `next_offset`.

        Returns:
            What the bot answered; its `update` is the number of the update.
        """
        self._telegram.log(self.name, f"<inline> {text}")
        number, query = self._telegram.new_query("inline_query")
        update = await self._telegram.deliver(
            inline_query={"id": number, "from": self.sender, "query": text, "offset": offset}
        )
        return InlineAnswer(update, query, self._telegram.wait_for_answer)

    async def pay(
        self,
        invoice: BotMessage | str | None = None,
        *,
        timeout: float = 5.0,  # noqa: ASYNC109 -- see `Telegram.wait`
    ) -> Payment:
        """Pay an invoice: the bot is asked before (`pre_checkout_query`), and told when it agrees.

        Args:
            invoice: The message with it, or a link of `createInvoiceLink`; by default the last
                invoice of the private chat.
            timeout: Seconds that the bot has to answer; Telegram gives 10.

        Returns:
            How it ended.

        Raises:
            ValueError: There is no invoice, or one with a shipping query, which is not played here.
            NoReplyError: The bot did not answer the `pre_checkout_query`.
        """
        asked, chat = self._invoice(invoice)
        if asked.get("is_flexible"):
            raise ValueError("an invoice with is_flexible: play it with deliver(shipping_query=…)")
        total = {
            "currency": asked["currency"],
            "total_amount": sum(each["amount"] for each in asked["prices"]),
            "invoice_payload": asked["payload"],
        }
        self._telegram.log(self.name, f"pays {total['total_amount']} {total['currency']}")
        number, query = self._telegram.new_query("pre_checkout_query")
        update = await self._telegram.deliver(
            pre_checkout_query={"id": number, "from": self.sender, **total}
        )
        answer = await self._telegram.wait_for_answer(query, timeout)
        if not answer.get("ok"):
            return Payment(
                ok=False,
                error=str(answer.get("error_message", "")),
                charge_id="",
                update=update,
            )
        charge = f"local-charge-{number}"
        update = await self.send(
            chat=chat,
            successful_payment={
                **total,
                "telegram_payment_charge_id": charge,
                "provider_payment_charge_id": f"provider-{number}",
            },
        )
        return Payment(ok=True, error="", charge_id=charge, update=update)

    async def block(self) -> int:
        """Block the bot: it is told (`my_chat_member`), and what it sends is refused with 403.

        Returns:
            Number of the update.
        """
        self.blocked = True
        self._telegram.log(self.name, "blocks the bot")
        return await self._tell(_MEMBER, _KICKED)

    async def unblock(self) -> int:
        """Take that back: the bot is told, and may write again.

        Returns:
            Number of the update.
        """
        self.blocked = False
        self._telegram.log(self.name, "unblocks the bot")
        return await self._tell(_KICKED, _MEMBER)

    async def _tell(self, old: Json, new: Json) -> int:
        """Tell the bot what it was in the private chat, and what it is now."""
        bot = self._telegram.me
        return await self._telegram.deliver(
            my_chat_member={
                "chat": self.json,
                "from": self.sender,
                "date": int(time.time()),
                "old_chat_member": {"user": bot, **old},
                "new_chat_member": {"user": bot, **new},
            }
        )

    def _of_bot(self, chat: BotApiChat) -> "list[Json]":
        return [each for each in self._telegram.messages(chat) if each["from"]["is_bot"]]

    def _invoice(self, invoice: BotMessage | str | None) -> tuple[Json, BotApiChat]:
        if isinstance(invoice, str):
            if invoice not in self._telegram.invoices:
                raise ValueError(f"{invoice!r} is no link of createInvoiceLink")
            return self._telegram.invoices[invoice], self
        if invoice is None:
            shown = map(self._telegram.bot_message, self._of_bot(self))
            invoice = next((each for each in shown if each.invoice), None)
        if invoice is None or not invoice.invoice:
            raise ValueError(f"there is no invoice for {self.name} to pay")
        return invoice.call.params, self._telegram.chat(invoice.json["chat"]["id"])


def _found(message: BotMessage, button: str) -> list[Json]:
    """Return the buttons of a message with a label, else with callback data."""
    all_of_them = message.inline_keyboard
    return [each for each in all_of_them if each["text"] == button] or [
        each for each in all_of_them if each.get("callback_data") == button
    ]


def _data(found: list[Json], button: str) -> Any:
    """Return the callback data of the only button in *found*.

    Raises:
        ValueError: There are several, or it sends none.
    """
    if len({each.get("callback_data") for each in found}) > 1:
        data = ", ".join(repr(each.get("callback_data")) for each in found)
        raise ValueError(f"{len(found)} buttons {button!r}: press one by its data, {data}")
    if "callback_data" not in found[0]:
        does = ", ".join(sorted(found[0].keys() - {"text"})) or "nothing"
        hint = "; use `pay()`" if found[0].get("pay") else ""
        raise ValueError(f"button {button!r} sends no callback to the bot: it has {does}{hint}")
    return found[0]["callback_data"]
