"""What a forked process does: runs a file as a program, its bots at local Bot API servers."""

import os
import runpy
import sys
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiogram
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer


def run(
    log: "Connection[bytes, bytes]", file: Path, environment: dict[str, str], urls: dict[str, str]
) -> None:
    """Run a file as `python -W error FILE` in its environment does; only Telegram is elsewhere.

    Args:
        log: Where its standard error goes.
        file: The program.
        environment: All of its environment; it runs in `PWD`.
        urls: Where the local Telegram of each token is.
    """
    os.dup2(log.fileno(), 2)
    log.close()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(environment["PWD"])
    warnings.simplefilter("error")

    class LocalBot(aiogram.Bot):
        def __init__(self, token: str, **options: Any) -> None:
            session = AiohttpSession(api=TelegramAPIServer.from_base(urls[token]))
            super().__init__(token, session, **options)

    aiogram.Bot = LocalBot  # type: ignore[misc, assignment]  # that is what this is for
    sys.argv = [str(file)]
    sys.path.insert(0, str(file.parent))
    runpy.run_path(str(file), run_name="__main__")
