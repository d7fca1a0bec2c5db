"""Steps of the plugin `delivery` before or after which a process kills itself."""

import os
import signal
from collections.abc import Callable
from inspect import isawaitable
from typing import Any, Final, NamedTuple

from db_manager.database.open_unit import UnitState
from db_manager.delivery.inbox.attempts import Attempts
from db_manager.delivery.inbox.updates import Updates
from db_manager.delivery.outbox import Outbox
from db_manager.delivery.table.claims import Claims


class Step(NamedTuple):
    """A method, and which of its calls is meant, by its arguments."""

    owner: type
    name: str
    is_it: Callable[..., bool]


def _is_committed(unit: Any, sendings: Any) -> bool:
    return bool(sendings) and unit.state is UnitState.COMMITTED


STEPS: Final = {
    # The row with the number 0 says who polls.
    "store": Step(Updates, "store", lambda rows, _: any(row["update_id"] for row in rows)),
    "handling": Step(Attempts, "handle", lambda _: True),
    "done": Step(Outbox, "flush", lambda _, sendings: bool(sendings)),
    "handing over": Step(Outbox, "ended", _is_committed),
    "mark": Step(Claims, "end", lambda *_: True),
}


def die(when: str) -> None:
    """Let this process kill itself at *when*, as `before store` or `after mark`."""
    moment, _, name = when.partition(" ")
    step = STEPS[name]
    inside = getattr(step.owner, step.name)

    def deadly(self: Any, *arguments: Any) -> Any:
        if not step.is_it(*arguments):
            return inside(self, *arguments)
        if moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        return _and_die(inside(self, *arguments))

    setattr(step.owner, step.name, deadly)


async def _and_die(done: Any) -> None:
    """Wait for what was begun, and die."""
    if isawaitable(done):
        await done
    os.kill(os.getpid(), signal.SIGKILL)
