"""How a message or an update is named on a command line."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from db_manager.delivery.table.claims import DEAD, EXPIRED, UNKNOWN
from lifecycle.errors import LifecycleError, nearest

Kind = Literal["message", "update"]

#: All messages of a state; and all parked updates.
STATES: Final = {"dead": DEAD, "unknown": UNKNOWN, "expired": EXPIRED}
PARKED: Final = "parked"
_NAME: Final = re.compile(r"([mu])(\d{1,18})(?:@(\d{1,18}))?")


@dataclass(frozen=True, slots=True)
class Named:
    """One message, or one update.

    Args:
        said: As it was written: `m17`, `u2041`, or `u2041@42` of bot 42.
        kind: What it is.
        number: The message's number in the table, as in events; or Telegram's of the update.
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
    if found is None or (found[3] and found[1] == "m"):
        raise LifecycleError(_wrong(said, words))
    kind: Kind = "message" if found[1] == "m" else "update"
    return Named(said, kind, int(found[2]), int(found[3]) if found[3] else None)


def _wrong(said: str, words: tuple[str, ...]) -> str:
    if said.isdecimal():
        return f"{said}: write m{said} for the message, or u{said} for the update"
    return (
        f"{said!r} is no id{nearest(said, words)}: write m17 for a message, u2041 for an update "
        f"(u2041@42 for that of bot 42), or all that are {', '.join(words)}"
    )
