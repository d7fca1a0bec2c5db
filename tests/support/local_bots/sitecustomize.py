"""Leads the bots of a program to local Telegrams, which the environment names for each token.

The folder is on the PYTHONPATH of a program that `support.programs` runs.
"""

import os

from aiogram.client.telegram import PRODUCTION

urls = dict(each.split("=") for each in os.environ["LOCAL_TELEGRAMS"].split())


def api_url(token: str, method: str) -> str:
    """Return where a method of the bot with this token is called."""
    return f"{urls[token]}/bot{token}/{method}"


object.__setattr__(PRODUCTION, "api_url", api_url)  # it is frozen
