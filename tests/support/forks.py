"""Python in a process that is forked: the imports take seconds, and here they are made once.

`forked("-m", "bot")` is the command line that `(sys.executable, "-m", "bot")` is, for all who start
programs. Its process has a life of its own as a fresh one has, to the end of its interpreter. But
the libraries of `fork_server.LIBRARIES` are imported: a test of what a program imports, or of its
start, begins with `sys.executable`.
"""

import atexit
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent


def forked(*arguments: str | Path) -> tuple[str, ...]:
    """Return the command line that runs Python in a forked process.

    Args:
        *arguments: What follows `python`: options -W ACTION, then -c CODE, -m MODULE, or a file,
            then arguments of the program.
    """
    # Without site and what the environment says: it is a launcher only, and quick.
    launcher = (sys.executable, "-I", "-S", str(HERE / "launcher.py"), _fork_server())
    return (*launcher, *map(str, arguments))


@cache
def _fork_server() -> str:
    """Start the fork server; return the path of its socket. It ends with this process."""
    folder = TemporaryDirectory(prefix="fork-server")
    path = str(Path(folder.name) / "socket")
    said = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(100)
        owned, owner = os.pipe()
        process = subprocess.Popen(
            [sys.executable, HERE / "fork_server.py", str(listener.fileno()), str(owned)],
            stdin=subprocess.DEVNULL,
            env=said,
            pass_fds=(listener.fileno(), owned),
            start_new_session=True,  # an interrupt of the tests is none of the programs
        )
    os.close(owned)

    @atexit.register
    def end() -> None:
        os.close(owner)
        process.wait()
        folder.cleanup()

    return path
