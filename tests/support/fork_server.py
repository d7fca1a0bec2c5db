"""The process from which programs are forked: it has imported the libraries before.

`support.forks` starts it. For each launcher (`launcher.py`) it forks a process, which leaves
`serve` and becomes the program. That one ends as every interpreter does, but for the libraries:
to take them down would copy all of their memory first. The authorities of TLS are read as well
(`authorities.py`). Our own packages are not imported here: a program imports those that it finds,
as a fresh one does.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, NoReturn

#: What takes long to import, and is in most of the programs.
LIBRARIES = (
    *("aiogram", "aiohttp.web", "alembic.command", "asyncpg", "aiosqlite", "dotenv", "msgspec"),
    *("pydantic_settings", "pytest", "sqlalchemy.ext.asyncio", "sqlalchemy.orm", "structlog"),
    *("tenacity", "transitions"),
)
#: The largest request.
_LIMIT = 1 << 20


class Request(NamedTuple):
    """What is to be run.

    Args:
        arguments: What follows `python` on the command line.
        folder: Where it runs.
        environment: All of its environment.
    """

    arguments: list[str]
    folder: str
    environment: dict[str, str]


class ForkServer:
    """Forks a process for each launcher, and is its parent.

    Args:
        listener: Where launchers connect.
        owner: The pipe that ends with the tests.
    """

    def __init__(self, listener: socket.socket, owner: int) -> None:
        self._listener = listener
        self._owner = owner
        self._children: dict[socket.socket, int] = {}
        self._ended, self._end = socket.socketpair()
        self._end.settimeout(0)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._end.fileno())

    def serve(self) -> Request:
        """Return what is to be run, in each forked process; never in this one.

        Raises:
            SystemExit: The tests have ended.
        """
        while True:
            readers: list[int | socket.socket] = [self._owner, self._ended, self._listener]
            ready, *_ = select.select([*readers, *self._children], (), ())
            if self._owner in ready:
                for launcher in list(self._children):
                    self._kill(launcher)
                raise SystemExit
            if self._ended in ready:
                self._ended.recv(_LIMIT)
                self._reap()
            # The one whose launcher was killed is dead before another one begins.
            for launcher in self._children.keys() & set(ready):
                self._pass_on(launcher)
            if self._listener in ready and (request := self._fork()):
                return request

    def _fork(self) -> Request | None:
        """Fork a process; return its request in it, and None in this one."""
        launcher, _ = self._listener.accept()
        try:
            request = Request(*json.loads(_read(launcher, int.from_bytes(_read(launcher, 8)))))
            _, streams, *_ = socket.recv_fds(launcher, 1, 3)
        except EOFError:  # it was killed
            launcher.close()
            return None
        if pid := os.fork():
            self._children[launcher] = pid
        else:
            self._leave(launcher)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
        for stream in streams:
            os.close(stream)
        return None if pid else request

    def _leave(self, launcher: socket.socket) -> None:
        """Give back what is the fork server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._owner)
        for each in (self._listener, self._ended, self._end, launcher, *self._children):
            each.close()

    def _pass_on(self, launcher: socket.socket) -> None:
        """Pass on the signals that a launcher got, or SIGKILL when it is dead."""
        numbers = launcher.recv(_LIMIT)
        for number in numbers:
            os.kill(self._children[launcher], number)
        if not numbers:
            self._kill(launcher)

    def _kill(self, launcher: socket.socket) -> None:
        """Kill the child of a launcher."""
        pid = self._children.pop(launcher)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        launcher.close()

    def _reap(self) -> None:
        """Tell the launchers of those that have ended how they did."""
        for launcher, pid in list(self._children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._children[launcher]
                with suppress(BrokenPipeError):  # it is dead, too
                    launcher.sendall(str(os.waitstatus_to_exitcode(status)).encode())
                launcher.close()


def _read(launcher: socket.socket, size: int) -> bytes:
    """Return the next *size* bytes.

    Raises:
        EOFError: There are no more.
    """
    data = b""
    while len(data) < size:
        if not (more := launcher.recv(size - len(data))):
            raise EOFError
        data += more
    return data


def begin(request: Request) -> None:
    """Make this interpreter what a new one is at its beginning: streams, environment, warnings."""
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115 -- a descriptor, until the end
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115 -- the same
    sys.stderr = sys.__stderr__ = open(  # type: ignore[misc]  # noqa: SIM115 -- the same
        2, "w", errors="backslashreplace", buffering=1, closefd=False
    )
    path = os.environ.get("PYTHONPATH")
    sys.path[:0] = path.split(os.pathsep) if path else []
    sys.modules.pop("sitecustomize", None)
    with suppress(ImportError):
        import_module("sitecustomize")


def run(arguments: list[str]) -> None:
    """Run what `python` with these arguments runs: -W ACTION, -c CODE, -m MODULE, or a file."""
    while arguments[0] == "-W":
        sys.warnoptions.append(arguments[1])
        warnings.simplefilter(arguments[1])  # type: ignore[arg-type]  # one of the actions
        arguments = arguments[2:]
    match arguments:
        case ["-c", code, *rest]:
            sys.argv = ["-c", *rest]
            sys.path.insert(0, "")
            sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))  # noqa: S102 -- that is the point
        case ["-m", module, *rest]:
            sys.argv = [module, *rest]
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case [file, *rest]:
            sys.argv = [file, *rest]
            sys.path.insert(0, str(Path(file).resolve().parent))
            runpy.run_path(file, run_name="__main__")


def end(error: BaseException | None) -> NoReturn:
    """End this process as an interpreter ends, with what its program has left.

    Args:
        error: What its program has raised.

    Raises:
        BaseException: That, when it kills the process: this is for the interpreter.
    """
    code = 0
    if isinstance(error, Exception):
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    elif isinstance(error, SystemExit) and isinstance(error.code, int | None):
        code = error.code or 0
    elif error is not None:
        raise error
    error = None
    threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter does
    atexit._run_exitfuncs()
    gc.collect()  # says what was not closed
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    listening, owning = map(int, sys.argv[1:])
    import_module("authorities").read_once()  # of this folder
    del sys.path[0]
    for name in LIBRARIES:
        import_module(name)
    gc.freeze()  # what is imported is not looked through by each of the programs
    wanted = ForkServer(socket.socket(fileno=listening), owning).serve()
    begin(wanted)
    try:
        run(wanted.arguments)
    except BaseException as error:  # noqa: BLE001 -- whatever it is
        end(error)
    end(None)
