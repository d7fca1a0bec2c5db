"""Lets an application die as far as its messages go, at a moment that no test could hit."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from unittest.mock import patch

from db_manager.database.database import Database
from db_manager.database.open_unit import COMMITTED
from db_manager.delivery.again import Patience
from db_manager.delivery.calls.courier import Courier, Delivered, Letter
from db_manager.delivery.outbox import Outbox
from db_manager.delivery.relay import Relay
from db_manager.unit.uow import UnitOfWork

T = TypeVar("T")


class _Never(Patience):
    """What the dead do."""

    async def until_done(self, work: Callable[[], Awaitable[T]], **_: float) -> T:  # noqa: ARG002 -- never done
        """Never return."""
        while True:
            await asyncio.Event().wait()


@contextmanager
def dying(
    *, sends: bool, strikes: Callable[[UnitOfWork], bool], died: Callable[[], None]
) -> Iterator[None]:
    """Let an application die that has messages of a unit; at most one is sent by it before.

    Args:
        sends: It sends the first of them, and dies before it has noted that; else it dies at once.
        strikes: Asked of each unit that has committed messages: whether it is meant.
        died: Called when it has died.
    """
    after_end, send = UnitOfWork.after_end, Courier.send
    doomed: dict[int, Relay] = {}

    async def end(unit: UnitOfWork) -> BaseException | None:
        outbox, sendings = Database.of(unit.engine).delivery, unit.registered().sendings
        relay = outbox.relay if isinstance(outbox, Outbox) else None
        meant = sendings and unit.state is COMMITTED
        if relay is None or not meant or not strikes(unit):
            return await after_end(unit)
        if sends:
            doomed.update({sending.id: relay for sending in sendings})
            return await after_end(unit)
        died()
        _kill(relay)
        interrupted = await after_end(unit)
        await relay.leave_behind()
        return interrupted

    async def send_last(courier: Courier, letter: Letter) -> Delivered | None:
        delivered = await send(courier, letter)
        relay = doomed.get(letter.row.id)
        if delivered is None or relay is None:
            return delivered
        doomed.clear()
        died()
        _kill(relay)
        await relay.leave_behind()
        raise asyncio.CancelledError

    with patch.object(UnitOfWork, "after_end", end), patch.object(Courier, "send", send_last):
        yield


def _kill(relay: Relay) -> None:
    relay.again = _Never()  # neither marks nor looks, nor signs of life
    relay.die()
