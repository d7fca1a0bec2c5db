"""People who write to a bot, and Telegram's way to the webhooks of its replicas."""

import asyncio
import random
from collections import Counter
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector
from support.programs import all_taken
from support.replicas import Replicas
from support.unreliable import UnreliableTelegram

#: Seconds that Telegram waits for the answer of a webhook.
_LONGEST: Final = 3.0
#: Seconds until it tries again.
_PAUSE: Final = 0.05


class Crowd:
    """People who write, each of them 1, 2, 3 and so on.

    To webhooks Telegram delivers one update of a chat at a time, to a replica that chance chooses,
    and again until it is answered with 200. From those who poll it waits for an acknowledgement.

    Args:
        telegram: Where they write.
        replicas: Who gets it.
        rate: How many updates they write in a second, all together.
        repeats: Share of the updates that come once or twice more, to other replicas and later.
        polled: Replicas poll, and have no webhooks.

    Attributes:
        may_write: While it is not set, nobody writes anything new.
        said: The last number of each chat.
        refused: How often a delivery failed.
    """

    def __init__(
        self,
        telegram: UnreliableTelegram,
        replicas: Replicas,
        *,
        rate: float,
        repeats: float = 0.0,
        polled: bool = False,
    ) -> None:
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.said: Counter[int] = Counter()
        self.refused = 0
        self._telegram = telegram
        self._replicas = replicas
        self._pause = len(telegram.chats) / rate
        self._repeats = repeats
        self._polled = polled
        self._updates = 0

    async def talk(self, seconds: float) -> None:
        """Write for some time, each of them at least once; return when all of it is delivered."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        timeout = ClientTimeout(total=_LONGEST)
        async with ClientSession(connector=TCPConnector(limit=0), timeout=timeout) as session:

            async def person(chat: int) -> None:
                pause = min(random.expovariate(1 / self._pause), seconds / 2)
                while loop.time() + pause < end:
                    await asyncio.sleep(pause)
                    await self.may_write.wait()
                    pause = random.expovariate(1 / self._pause)
                    update = self._update(chat)
                    if self._polled:
                        self._telegram.push(message=update["message"])
                        continue
                    await self._deliver(session, update)
                    if random.random() < self._repeats:
                        again.create_task(self._repeat(session, update))

            async with asyncio.TaskGroup() as again, asyncio.TaskGroup() as group:
                for chat in self._telegram.chats:
                    group.create_task(person(chat))
        await all_taken(self._telegram)

    def _update(self, chat: int) -> dict[str, object]:
        """Return what a person writes next."""
        self.said[chat] += 1
        self._updates += 1
        person = self._telegram.chat(chat)
        sender = {"id": chat, "is_bot": False, "first_name": person.name}
        text = {"from": sender, "text": str(self.said[chat])}
        message = self._telegram.new_message(person, text)
        return {"update_id": self._updates, "message": message}

    async def _repeat(self, session: ClientSession, update: dict[str, object]) -> None:
        """Deliver an update again, as if the answer had been lost."""
        for _ in range(random.randint(1, 2)):
            await asyncio.sleep(random.random())
            await self._deliver(session, update)

    async def _deliver(self, session: ClientSession, update: dict[str, object]) -> None:
        """Hand an update over until it is taken."""
        while True:
            if serving := self._replicas.serving:
                url = f"http://127.0.0.1:{random.choice(serving).port}/"
                try:
                    async with session.post(url, json=update) as response:
                        response.raise_for_status()
                        return
                except (ClientError, TimeoutError):
                    self.refused += 1
            await asyncio.sleep(_PAUSE)
