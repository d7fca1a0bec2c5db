"""Does again what the database could not do, for as long as it takes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

from sqlalchemy.exc import IntegrityError

from lifecycle.error_text import textless

T = TypeVar("T")

_logger = logging.getLogger("db_manager.delivery")

#: Seconds before the second attempt, and longest pause.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
#: How often a claim is tried when others claim the same lanes.
_CLAIMS: Final = 5


class Patience:
    """Repeats statements; an outage is logged once."""

    def __init__(self) -> None:
        self._failed = False

    async def until_done(
        self, work: Callable[[], Awaitable[T]], *, longest: float = LONGEST_PAUSE
    ) -> T:
        """Do *work* until it does not raise.

        Args:
            work: What may be done again.
            longest: Longest pause in seconds before it is.
        """
        pause = min(FIRST_PAUSE, longest)
        while True:
            try:
                done = await work()
            except Exception as error:
                if not self._failed:
                    _logger.warning("the outbox waits for the database", exc_info=textless(error))
                self._failed = True
            else:
                self._failed = False
                return done
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)


async def claim_again(claim: Callable[[], Awaitable[T]]) -> T:
    """Return what *claim* returns; tried again when others have claimed in one of its lanes.

    Args:
        claim: A transaction of its own, which then sees what they have.

    Raises:
        IntegrityError: Others were first each time.
    """
    for _ in range(_CLAIMS - 1):
        with suppress(IntegrityError):
            return await claim()
    return await claim()
