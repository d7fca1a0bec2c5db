"""Checks without waiting whether a socket has data to read, or was closed by its peer."""

import select
from typing import Final

READABLE: Final = getattr(select, "POLLIN", 0)
#: The peer has closed the connection, even if there is unread data (Linux; 0 elsewhere).
HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)


def polled(file: int, events: int) -> bool:
    """Return True if one of *events* is pending on a socket.

    Args:
        file: Its file descriptor.
        events: `READABLE` or `HUNG_UP`.
    """
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([file], [], [], 0)[0])
    poller = select.poll()  # unlike select(), it accepts descriptors above 1023
    poller.register(file, events)
    return bool(poller.poll(0))
