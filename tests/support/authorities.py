"""The certificate authorities of the Internet, whom no test asks, read once by each process.

aiogram reads them for each session that it makes: 13 ms, of which a suite makes some two thousand.
"""

import ssl
from functools import cache
from types import SimpleNamespace
from typing import Any

from aiogram.client.session import aiohttp


def read_once() -> None:
    """Let all sessions of aiogram in this process share one context of TLS."""
    module: Any = aiohttp
    module.ssl = SimpleNamespace(create_default_context=cache(ssl.create_default_context))
