"""A finding of `db-manager check`."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One line of the report.

    Args:
        level: `problem` if the bot cannot start or work with it.
        about: What was checked, in one word.
        text: What was found, and how to fix it.
    """

    level: Literal["ok", "warning", "problem"]
    about: str
    text: str
