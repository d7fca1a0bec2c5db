"""How a bot gets its updates: by long polling or by a webhook."""

import asyncio
from contextlib import suppress
from typing import Final

from lifecycle.testing.telegram.calls import ApiCall, Json
from lifecycle.testing.telegram.http.refusals import DESCRIPTIONS, RefusedError
from lifecycle.testing.telegram.people.registry import People

_MOST_UPDATES: Final = 100  # a limit that is none is this one
_LONGEST_POLL: Final = 50  # seconds


class Receiving(People):
    """The methods `getUpdates`, `setWebhook` and those around them.

    Attributes:
        webhook: What `setWebhook` set, `url` empty without one.
    """

    def __init__(self, me: Json) -> None:
        super().__init__(me)
        self.webhook: Json = {"url": ""}
        self._poll = 0  # number of the youngest getUpdates: only that one is served
        self._conflict = False

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
