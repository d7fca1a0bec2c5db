"""Where in somebody's code something was done: file, line and function."""

import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import CodeType
from typing import Final

#: What enters a block for somebody else, whose place is meant.
STACK: Final = AsyncExitStack.enter_async_context.__code__


def place_text(code: CodeType, position: int) -> str:
    """Return the place as people write it: `bot/notes.py:42 in save`.

    Args:
        code: The code of the function.
        position: The instruction in it: `f_lasti` of its frame.
    """
    lines = (line for begin, end, line in code.co_lines() if begin <= position < end)
    line = next(lines, None) or code.co_firstlineno
    return f"{_shown(code.co_filename)}:{line} in {code.co_qualname}"


def _shown(name: str) -> str:
    """Return a file's name from the working directory on, or from where its package was found.

    The rest may tell what does not belong into an error: the name of a user or a customer.
    """
    folders = [Path(each).resolve() for each in sys.path if each]
    with suppress(OSError):  # it was removed
        folders.append(Path.cwd())
    file = Path(name).resolve()
    around = [folder for folder in folders if file.is_relative_to(folder)]
    if not around:
        return file.name
    return str(file.relative_to(max(around, key=lambda folder: len(folder.parts))))
