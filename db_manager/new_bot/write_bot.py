"""Writes a new bot into an empty folder: one plugin with a table, tests, and a container."""

import argparse
import importlib.metadata
import json
import shlex
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from db_manager.new_bot.new_files import template_files, write_files
from lifecycle.printable import printable

#: What stands for the folder of db_manager where nobody knows it.
_ANYWHERE: Final = "path/to/db_manager"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `db-manager init`."""
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path(),
        metavar="FOLDER",
        help="made if it is missing; default: this one",
    )
    parser.epilog = (
        "Nothing is overwritten: a folder with anything in it but hidden entries (.git, .venv) and "
        "virtual environments is refused. Exit code: 0 if the bot was written, 2 if not."
    )


def run(options: argparse.Namespace) -> int:
    """Write the bot, and say what to do next.

    Returns:
        0.

    Raises:
        LifecycleError: The folder is not empty or cannot be written; nothing was written.
    """
    folder: Path = options.folder
    write_files(folder)
    steps = [
        f"pip wheel --no-deps --wheel-dir wheels {_quoted(_source())}",
        "pip install -r requirements-dev.txt",
        "python -m pytest",
        "cp .env.example .env  # and write the token of @BotFather into it",
        "python -m bot",
    ]
    if folder.resolve() != Path.cwd():
        steps.insert(0, f"cd {_quoted(str(folder))}")
    lines = [f"A new bot, in {len(template_files())} files. Its plugin is bot/notes.py. Next:", ""]
    sys.stdout.write("\n".join([*lines, *(f"    {step}" for step in steps)]) + "\n")
    return 0


def _quoted(text: str) -> str:
    """Return *text* as a word for a shell, without what would write on a terminal."""
    return shlex.quote(printable(text))


def _source() -> str:
    """Return the folder or the wheel that this package was installed from, as pip noted it."""
    noted = importlib.metadata.distribution("db-manager").read_text("direct_url.json")
    url = urlsplit(json.loads(noted)["url"] if noted else "")
    path = Path(url2pathname(url.path))
    return str(path) if url.scheme == "file" and path.exists() else _ANYWHERE
