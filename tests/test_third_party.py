"""A plugin of a third party, in a wheel of its own, is found by its name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.forks import forked
from uv import find_uv_bin

PROJECT = """
[project]
name = "birthdays-for-bots"
version = "1.0"
requires-python = ">=3.11"

[project.entry-points."db_manager.plugins"]
birthdays = "birthdays:Birthdays"

[build-system]
requires = ["uv_build"]
build-backend = "uv_build"

[tool.uv.build-backend]
module-name = "birthdays"
"""

PLUGIN = '''
"""Birthdays for every bot."""

from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, UnitOfWork
from lifecycle import Plugin, PluginContext


class Birthday(Base):
    """When somebody was born."""

    __tablename__ = "birthdays__birthday"

    name: Mapped[str] = mapped_column(primary_key=True)


class BirthdaysConfig(BaseModel):
    """Whose birthdays are known from the first day on."""

    known: list[str]


class Birthdays(Plugin):
    """Knows birthdays."""

    name = "birthdays"
    requires = ("db_manager",)
    config_model = BirthdaysConfig

    async def start(self, context: PluginContext) -> None:
        """Write down what is known."""
        async with UnitOfWork(context.services["db_manager:engine"]) as uow:
            uow.session.add_all([Birthday(name=name) for name in context.config.known])
            await uow.session.flush()
            count = await uow.session.scalar(select(func.count()).select_from(Birthday))
        context.provide("count", count)
'''

CONFIG = """
[app]
plugins = ["birthdays", "db_manager"]
journal = "memory"

[birthdays]
known = ["Ada", "Grace"]
"""

PROGRAM = """
import asyncio
from lifecycle import Application

async def main():
    async with Application.from_config("config.toml") as app:
        print({name: str(managed.state) for name, managed in app.plugins.items()})
        print(app.services["birthdays:count"])

asyncio.run(main())
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The third party's wheel, built from its project by its build backend."""
    package = tmp_path / "project" / "src" / "birthdays"
    package.mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").write_text(PROJECT)
    (package / "__init__.py").write_text(PLUGIN)
    uv(tmp_path / "project", "build", "--wheel", "--no-build-isolation", "--out-dir", "..")
    return next(tmp_path.glob("*.whl"))


def uv(folder: Path, *arguments: str) -> None:
    """Run uv without a network, with the Python of this test."""
    subprocess.run(
        [find_uv_bin(), "--offline", "--quiet", *arguments, "--python", sys.executable],
        cwd=folder,
        check=True,
    )


def test_a_plugin_of_another_wheel_is_loaded_by_name(wheel: Path, tmp_path: Path) -> None:
    """Its entry point is enough: config.toml says `birthdays`, and it runs with its section."""
    installed = tmp_path / "installed"
    uv(tmp_path, "pip", "install", "--no-deps", "--target", str(installed), str(wheel))
    (tmp_path / "config.toml").write_text(CONFIG)
    run = subprocess.run(
        forked("-c", PROGRAM),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert run.stderr == ""
    assert run.stdout.splitlines() == ["{'db_manager': 'started', 'birthdays': 'started'}", "2"]
