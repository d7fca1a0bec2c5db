"""Asks a socket whether there is something to read, or nobody at the other end; never waits."""

import select
from typing import Final

READABLE: Final = getattr(select, "POLLIN", 0)
#: The other side has said good-bye, also behind unread data (Linux; 0 elsewhere).
HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)


def polled(file: int, events: int) -> bool:
    """Return True when one of *events* has happened to a socket.

    Args:
        file: Its descriptor.
        events: `READABLE` or `HUNG_UP`.
    """
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([file], [], [], 0)[0])
    poller = select.poll()  # select() refuses the files of a process with more than 1024 of them
    poller.register(file, events)
    return bool(poller.poll(0))
