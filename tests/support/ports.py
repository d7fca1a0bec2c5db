"""Ports of this machine that belong to a test, also while nobody listens there.

The kernel gives a port to any other process as soon as nobody has it: who refuses connections for
a moment, or starts a server a moment later, finds a stranger there.
"""

import atexit
import socket
from contextlib import ExitStack
from typing import Self

HOST = "127.0.0.1"


class KeptPort:
    """A port that stays ours until it is closed; a context manager.

    A socket has it that does not listen, so connections are refused. A server that says
    SO_REUSEADDR, as all do, can listen there; the kernel gives the port neither to a socket that
    asks for any nor to a client.
    """

    def __init__(self) -> None:
        self._socket = _bound(0)
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Let the kernel give it to others."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_for_good = ExitStack()
atexit.register(_for_good.close)


def free_port() -> int:
    """Return a port on which nobody listens, and which others are not given until the tests end."""
    return _for_good.enter_context(KeptPort()).number


def listens(port: int) -> bool:
    """Return whether somebody listens on *port*; nobody is connected to."""
    try:
        _bound(port).close()
    except OSError:
        return True
    return False


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
    except BaseException:
        bound.close()
        raise
    return bound
