"""One thing that a check found."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One line of the answer.

    Args:
        level: `problem` when the bot does not start or work like this.
        about: What was looked at, in one word.
        text: What was found, and how to mend it.
    """

    level: Literal["ok", "warning", "problem"]
    about: str
    text: str
