"""How a message, an update or a broadcast is named on a command line."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from db_manager.delivery.table.claims import DEAD, EXPIRED, UNKNOWN
from lifecycle.errors import LifecycleError, nearest

Kind = Literal["message", "update", "broadcast"]

#: All messages of a state; and all parked updates.
STATES: Final = {"dead": DEAD, "unknown": UNKNOWN, "expired": EXPIRED}
PARKED: Final = "parked"
_KINDS: Final[dict[str, Kind]] = {"m": "message", "u": "update", "b": "broadcast"}
_NAME: Final = re.compile(r"([mub])(\d{1,18})(?:@(\d{1,18}))?")


@dataclass(frozen=True, slots=True)
class Named:
    """One message, update or broadcast.

    Args:
        said: As it was written: `m17`, `b3`, `u2041`, or `u2041@42` of bot 42.
        kind: What it is.
        number: That in the table, as in events; or Telegram's of the update.
        bot: The bot, when that was said.
    """

    said: str
    kind: Kind
    number: int
    bot: int | None


def named(said: str) -> Named | str:
    """Return what is meant: one row, or all of a kind by its word.

    Raises:
        LifecycleError: It is neither; the text has the fix.
    """
    words = (*STATES, PARKED)
    if said in words:
        return said
    found = _NAME.fullmatch(said)
    if found is None or (found[3] and found[1] != "u"):
        raise LifecycleError(_wrong(said, words))
    return Named(said, _KINDS[found[1]], int(found[2]), int(found[3]) if found[3] else None)


def _wrong(said: str, words: tuple[str, ...]) -> str:
    if said.isdecimal():
        return (
            f"{said}: write m{said} for the message, u{said} for the update, or b{said} for the "
            f"broadcast"
        )
    return (
        f"{said!r} is no id{nearest(said, words)}: write m17 for a message, u2041 for an update "
        f"(u2041@42 for that of bot 42), b3 for a broadcast, or all that are {', '.join(words)}"
    )
