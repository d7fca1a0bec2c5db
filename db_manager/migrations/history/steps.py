"""The history of a plugin's tables: revisions, one after the other."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, NamedTuple

from db_manager.migrations.failure import MigrationError

#: Characters of an id: Alembic's column.
LONGEST_ID: Final = 32
#: Begins an id of ours; a hash may begin with more digits.
_NUMBER: Final = re.compile(r"\d{4}(?=_)")


@dataclass(frozen=True)
class Revision:
    """One step of a history.

    Args:
        id: Its name; new ones are called as their file.
        file: The file.
        after: The one that it follows; None for the first one.
    """

    id: str
    file: Path
    after: str | None


class Step(NamedTuple):
    """One revision, to be applied or to be taken back.

    Args:
        revision: The revision.
        before: What the database is at; empty when it has none.
        after: What it will be at; empty when it will have none.
    """

    revision: str
    before: str
    after: str

    @property
    def verb(self) -> Literal["upgrade", "downgrade"]:
        """The function of the file that goes it."""
        return "upgrade" if self.after == self.revision else "downgrade"


@dataclass(frozen=True)
class History:
    """The migrations of one plugin.

    Args:
        plugin: Name of the plugin: what its tables begin with.
        folder: Where its revisions are.
        revisions: All of them, the first one first.
    """

    plugin: str
    folder: Path
    revisions: tuple[Revision, ...]

    @property
    def version_table(self) -> str:
        """Name of the table that says what the database is at."""
        return version_table(self.plugin)

    @property
    def head(self) -> str:
        """The last revision."""
        return self.revisions[-1].id

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids of all revisions, the first one first."""
        return tuple(revision.id for revision in self.revisions)

    def pending(self, at: str | None) -> tuple[str, ...]:
        """Return what a database that is at *at* lacks; nothing when *at* is unknown here.

        Args:
            at: A revision; None is a database without any.
        """
        return self.ids[self.position(at or "") :]

    def position(self, revision: str) -> int:
        """Return the place of a revision in the line; one that is not in it comes after all.

        Args:
            revision: Its id; empty for none, which comes before all.
        """
        line = ("", *self.ids)
        return line.index(revision) if revision in line else len(line)

    def steps(self, at: str, target: str) -> list[Step]:
        """Return the way from one revision to another, up or down.

        Args:
            at: The revision that the database is at; empty for none.
            target: The one to lead to; empty for none.
        """
        line, here, there = ("", *self.ids), self.position(at), self.position(target)
        if here <= there:
            return [Step(line[n], line[n - 1], line[n]) for n in range(here + 1, there + 1)]
        return [Step(line[n], line[n], line[n - 1]) for n in range(here, there, -1)]

    def next_id(self, message: str) -> str:
        """Return the id of a revision that follows the last one: a number and words.

        Args:
            message: What it does.
        """
        words = re.sub(r"[^a-z0-9]+", "_", message.lower()).strip("_") or "change"
        numbers = [int(found[0]) for each in self.ids if (found := _NUMBER.match(each))]
        number = max([len(self.ids), *numbers]) + 1
        return f"{number:04}_{words}"[:LONGEST_ID].rstrip("_")

    def find(self, name: str) -> str:
        """Return the id that *name* stands for: it, or the only one that begins with it.

        Args:
            name: An id, or its beginning: `0002`; `head` is the last one.

        Returns:
            The id; empty for `base`, which is before all.

        Raises:
            MigrationError: No revision is called so, or several are.
        """
        if name in {"head", "base"}:
            return self.head if name == "head" else ""
        found = [each for each in self.ids if each == name] or [
            each for each in self.ids if each.startswith(name)
        ]
        if len(found) != 1:
            which = "no revision" if not found else "more than one revision"
            raise MigrationError(
                self.plugin, name, f"{which} begins so; there are {', '.join(self.ids)}"
            )
        return found[0]


def version_table(plugin: str) -> str:
    """Return the name of the table that says what the tables of *plugin* are at."""
    return f"{plugin}__alembic_version"
