"""Reads config.toml, and says what is wrong with a file that is none."""

import stat
import tomllib
from pathlib import Path
from typing import Any, Final

from lifecycle.errors import ConfigError

#: Bytes of a file that may be a configuration.
_LARGEST: Final = 2**20


def read_file(path: Path) -> dict[str, Any]:
    """Return what the file at *path* says.

    Raises:
        ConfigError: It is not there, is no plain file of a sensible size, or is not TOML.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for its other end
            problem = f"is {_kind(status.st_mode)}, not a file; name a file with a section [app]"
        elif status.st_size > _LARGEST:
            problem = f"has {status.st_size} bytes; more than {_LARGEST} are no configuration"
        else:
            return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        problem = "there is no such file; write one with a section [app]"
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 at byte {error.start}; save it as UTF-8"
    except RecursionError:
        problem = "is nested too deeply; a section is [name], its keys stand below it"
    except (OSError, ValueError) as error:
        problem = f"{error}"
    raise ConfigError(f"{path}: {problem}")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
