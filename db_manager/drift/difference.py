"""A difference between a table and its model, how to undo it, and when it stops a start."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from db_manager.errors import DbManagerError

#: Differences that the error shows.
_MOST_SHOWN: Final = 5


class Difference(NamedTuple):
    """One line of what differs.

    Args:
        what: What differs, in one line; only names and types of the schema are in it.
        cure: The statement that makes the table as the model is, or what to do without one.
        breaks: Every statement of the model fails, because a table or a column is missing.
    """

    what: str
    cure: str
    breaks: bool = False


class SchemaDriftError(DbManagerError):
    """A table or a column of the models is missing, so every statement about it would fail.

    Added in 0.2.

    Args:
        missing: What is missing, one line each.
        section: The section of config.toml of the database.
    """

    def __init__(self, missing: Iterable[str], section: str) -> None:
        self.missing = tuple(missing)
        self.section = section
        super().__init__(self.missing, section)

    def __str__(self) -> str:
        shown = "; ".join(self.missing[:_MOST_SHOWN])
        more = len(self.missing) - _MOST_SHOWN
        also = f"; and {more} more" if more > 0 else ""
        return (
            f"the database is not as the models are: {shown}{also}. Run your migrations, or see "
            f"`db-manager check` for the statements; [{self.section}] drift = 'warn' starts anyway"
        )
