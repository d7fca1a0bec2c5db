"""A folder with models that change, as the author of a plugin has it, and its migrations."""

import importlib.util
import sys
from itertools import count
from pathlib import Path
from textwrap import dedent
from typing import Final, Literal, Self

from pydantic import SecretStr
from sqlalchemy import MetaData, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from db_manager.config import DatabaseConfig
from db_manager.engine.create import create_engine
from db_manager.migrations.history import History, find, folders
from db_manager.migrations.move import move, upgrade
from db_manager.migrations.revision.generate import Draft, generate
from lifecycle.event import Event

#: Begins the name under which models are imported.
PREFIX: Final = "migrated_models_"
_numbers = count()
_HEAD: Final = """
import enum
from sqlalchemy import CheckConstraint, ForeignKey, MetaData, String
from sqlalchemy.orm import Mapped, mapped_column
from db_manager import NAMING_CONVENTION
from db_manager import Base as DbManagerBase

class Base(DbManagerBase):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)

"""


class Project:
    """A folder with models and migrations, and a database.

    Args:
        folder: The folder.
        config: The section [database] of the database.
    """

    def __init__(self, folder: Path, config: DatabaseConfig) -> None:
        self.folder = folder
        self.config = config
        self.metadata = MetaData()
        self.events: list[Event] = []

    @classmethod
    def at(cls, folder: Path, url: URL) -> Self:
        """Return a project in the new *folder*, on the database at *url*."""
        folder.mkdir()
        return cls.on(folder, url)

    @classmethod
    def on(cls, folder: Path, url: URL) -> Self:
        """Return the project in *folder*, on the database at *url*."""
        where = SecretStr(url.render_as_string(hide_password=False))
        return cls(folder, DatabaseConfig(url=where))

    def models(self, code: str) -> None:
        """Let the models be *code*."""
        path = self.folder / "models.py"
        path.write_text(_HEAD + dedent(code), encoding="utf-8")
        # Python takes code of the same second and the same length for what it has compiled.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
        self.load()

    def load(self) -> None:
        """Take the models as they are in the folder."""
        path = self.folder / "models.py"
        name = f"{PREFIX}{next(_numbers)}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        self.metadata = module.Base.metadata

    def write(self, name: str, code: str, plugin: str = "shop", after: str | None = None) -> Path:
        """Write a revision by hand, with *code* as its functions."""
        file = self.folder / "migrations" / plugin / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        head = (
            f"import sqlalchemy as sa\nfrom alembic import op\n"
            f"revision = {name!r}\ndown_revision = {after!r}\n"
        )
        file.write_text(head + dedent(code), encoding="utf-8")
        return file

    @property
    def histories(self) -> dict[str, History]:
        """What is in the folder now."""
        return find(self.metadata)

    async def revision(
        self, plugin: str = "shop", *, write: bool = True, scratch: str = ""
    ) -> Draft | None:
        """Write the next revision of *plugin*."""
        found = self.histories
        history = found.get(plugin) or History(plugin, folders(self.metadata)[plugin], ())
        draft = await generate(self.config, self.metadata, found, history, scratch_url=scratch)
        if draft is not None and write:
            draft.write()
        return draft

    async def upgrade(self, target: str = "head") -> list[str]:
        """Apply what is pending; return the revisions that were applied."""
        begun = len(self.events)
        await upgrade(
            self.config, self.histories.values(), target=target, publish=self.events.append
        )
        new = (event.as_dict() for event in self.events[begun:])
        return [each["revision"] for each in new if each["topic"] == "database.migrated"]

    async def move(
        self, verb: Literal["downgrade", "stamp"], target: str, plugin: str = "shop"
    ) -> None:
        """Move back, or say where the database is."""
        await move(self.config, self.histories[plugin], verb, target)

    async def say(self, *statements: str) -> list[tuple[object, ...]]:
        """Run *statements* on the database; return the rows of the last one."""
        engine = self.engine()
        try:
            async with engine.begin() as connection:
                for statement in statements:
                    result = await connection.execute(text(statement))
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            await engine.dispose()

    @property
    def url(self) -> str:
        """Where the database is."""
        assert self.config.url is not None
        return self.config.url.get_secret_value()

    def engine(self) -> AsyncEngine:
        """Return an engine as the bot has it."""
        return create_engine(self.config)
