"""Stands for a program that the fork server forks: it has its streams and signals, and its end.

Run by `support.forks`, as what is started in the place of Python. It imports next to nothing.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress

PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def launch(server: socket.socket, arguments: list[str]) -> int:
    """Have a program run; return how it ended, a signal as a negative number.

    Args:
        server: The connection to the fork server.
        arguments: What follows `python` on the command line.
    """
    folder = os.getcwd()  # noqa: PTH109 -- pathlib takes longer to import than all of this
    request = json.dumps([arguments, folder, dict(os.environ)]).encode()
    # Until there is somebody to pass them on to.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    server.sendall(len(request).to_bytes(8) + request)
    socket.send_fds(server, [b"."], [0, 1, 2])
    os.close(0)  # whether its streams are open is a matter of the program
    os.close(1)

    def pass_on(number: int, _: object) -> None:
        with suppress(OSError):  # it has ended
            server.send(bytes([number]))

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    return int(server.recv(16) or -signal.SIGKILL)


if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        code = launch(connection, sys.argv[2:])
    if code < 0:
        for passed_on in PASSED_ON:
            signal.signal(passed_on, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
