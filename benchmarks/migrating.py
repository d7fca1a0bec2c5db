"""What migrations cost: a start with nothing to do, a hundred from nothing, and the commands."""

import importlib.util
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, TypeAlias

from pydantic import SecretStr
from sqlalchemy import MetaData

from benchmarks.report import Cell, Scale, Section, Table
from db_manager.config import DatabaseConfig
from db_manager.migrations.history import find
from db_manager.migrations.move import upgrade
from db_manager.plugin import DatabasePlugin
from lifecycle import Application, MemoryJournal

NAME = "migrating"

_PLUGINS: Final = ("shop", "guests", "post")
#: Revisions of all plugins together, and those with --quick.
_FILES, _FEW = 100, 6
_STARTS, _FROM_NOTHING, _COMMANDS = 15, 3, 3
_MODULE: Final = """
from sqlalchemy import MetaData
from sqlalchemy.orm import Mapped, mapped_column
from db_manager import Base

class Own(Base):
    __abstract__ = True
    metadata = MetaData()
"""
_MODEL: Final = """
class {name}(Own):
    __tablename__ = "{plugin}__item"
    id: Mapped[int] = mapped_column(primary_key=True)
"""
_COLUMN: Final = "    n{number}: Mapped[int] = mapped_column(default=0)\n"
_REVISION: Final = '''"""step {number}"""

import sqlalchemy as sa
from alembic import op

revision = "{number:04}_step"
down_revision = {after!r}


def upgrade() -> None:
    {code}
'''
_CREATE: Final = 'op.create_table("{}__item", sa.Column("id", sa.Integer, primary_key=True))'
_ADD: Final = 'op.add_column("{}__item", sa.Column("n{}", sa.Integer, server_default="0"))'
#: A bot with a plugin that needs no aiogram, as a worker has it.
_WORKER: Final = {
    "config.toml": """
[app]
plugins = ["db_manager", "jobs:Jobs"]
[database]
database = "jobs.sqlite3"
""",
    "jobs.py": """
from db_manager import Base
from lifecycle import Plugin
from sqlalchemy.orm import Mapped, mapped_column

class Job(Base):
    __tablename__ = "jobs__job"
    id: Mapped[int] = mapped_column(primary_key=True)

class Jobs(Plugin):
    name = "jobs"
    requires = ("db_manager",)
""",
}
_COMMAND: Final = "import sys; from observability.commands.cli import main; sys.exit(main())"
#: The end of the line after which a column is added to a model.
_KEY: Final = "(primary_key=True)\n"
_MORE: Final = "    more: Mapped[int] = mapped_column(default=0)\n"
_TEXT: Final = (
    "CPU time of the process, which includes what its threads do. Nothing to do: load, start and "
    f"stop of a bot on SQLite with {len(_PLUGINS)} plugins whose {_FILES} revisions were applied, "
    f"and of the same bot without them; medians of {_STARTS} turns of each. From nothing: the same "
    f"revisions on an empty file, medians of {_FROM_NOTHING}. Commands: "
    "`db-manager migrate revision` and `upgrade` as processes, after a column was added to a "
    "model; one bot needs no aiogram, the other is that of `db-manager init`, whose plugins import "
    f"it; medians of {_COMMANDS} turns."
)
_numbers = count()
#: Runs a program in a folder, and returns its CPU seconds.
_Run: TypeAlias = Callable[..., float]


async def measure(scale: Scale) -> Section:
    """Measure starts, then revisions, then commands."""
    files = _FEW if scale.quick else _FILES
    turns = 1 if scale.quick else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        projects = [_project(folder / "with", files), _project(folder / "without", files)]
        from_nothing = [
            await _apply(projects[0], folder / f"{number}.sqlite3")
            for number in range(turns or _FROM_NOTHING)
        ]
        shutil.rmtree(folder / "without" / "migrations")
        starts = await _starts(projects, folder / "0.sqlite3", turns or _STARTS)
        run = partial(_ran, scale.python)
        commands = _commands(folder, run, turns or _COMMANDS, int(not scale.quick))
    facts = {
        "migrate nothing ms": (starts[0] - starts[1]) * 1e3,
        "migrate all s": statistics.median(from_nothing),
        **{f"migrate {name} s": value for name, value in commands.items()},
    }
    rows: list[tuple[Cell, ...]] = [
        ("start with nothing to do", round(starts[0] * 1e3, 1)),
        ("the same without revisions", round(starts[1] * 1e3, 1)),
        (f"{files} revisions from nothing", round(facts["migrate all s"] * 1e3)),
        *((name, round(value * 1e3)) for name, value in commands.items()),
    ]
    return Section("Migrations", _TEXT, [Table("CPU", ("", "ms"), rows)], facts=facts)


def _project(folder: Path, files: int) -> MetaData:
    """Write three plugins with *files* revisions in all, and return their tables."""
    folder.mkdir()
    text = _MODULE
    for index, plugin in enumerate(_PLUGINS):
        mine = len(range(index, files, len(_PLUGINS)))
        text += _MODEL.format(name=plugin.title(), plugin=plugin)
        text += "".join(_COLUMN.format(number=number) for number in range(2, mine + 1))
        for number in range(1, mine + 1):
            file = folder / "migrations" / plugin / f"{number:04}_step.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            code = _CREATE.format(plugin) if number == 1 else _ADD.format(plugin, number)
            after = f"{number - 1:04}_step" if number > 1 else None
            file.write_text(_REVISION.format(number=number, after=after, code=code))
    file = folder / "models.py"
    file.write_text(text)
    name = f"benchmarked_models_{next(_numbers)}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    metadata: MetaData = module.Own.metadata
    return metadata


async def _apply(metadata: MetaData, file: Path) -> float:
    """Return the CPU seconds of all revisions on an empty file."""
    config = DatabaseConfig(url=SecretStr(f"sqlite+aiosqlite:///{file}"))
    began = time.process_time()
    await upgrade(config, find(metadata).values())
    return time.process_time() - began


async def _starts(projects: list[MetaData], file: Path, turns: int) -> list[float]:
    """Return the CPU seconds of a start and a stop on each of *projects*, medians of turns."""
    found: list[list[float]] = [[] for _ in projects]
    # What differs from the models is not looked at: that costs more, and is the same in both. And
    # versions without files would be refused.
    modes = ("apply", "off")
    for _ in range(turns + 1):  # the first is the warm-up
        for metadata, mode, each in zip(projects, modes, found, strict=True):
            plugin = type("Plugin", (DatabasePlugin,), {"metadata": metadata})
            where = f"sqlite+aiosqlite:///{file}"
            config = {"database": {"url": where, "migrate": mode, "drift": "ignore"}}
            began = time.process_time()
            async with Application([plugin], config=config, journal=MemoryJournal()):
                pass
            each.append(time.process_time() - began)
    return [statistics.median(each[1:]) for each in found]


def _commands(folder: Path, run: _Run, turns: int, warm_up: int) -> dict[str, float]:
    """Return the CPU seconds of each command, medians of turns."""
    found: dict[str, list[float]] = {}
    for turn in range(warm_up + turns):  # the first one compiles what it imports
        found.setdefault("import aiogram", []).append(run(folder, "import aiogram"))
        for bot, make in {"without aiogram": _worker, "of init": _init}.items():
            there = folder / f"{bot} {turn}"
            there.mkdir()
            models = make(there, run)
            run(there, _COMMAND, "migrate", "upgrade")
            text = models.read_text()
            models.write_text(text.replace(_KEY, f"{_KEY}{_MORE}", 1))
            for verb in ("revision", "upgrade"):
                cpu = run(there, _COMMAND, "migrate", verb)
                found.setdefault(f"{verb}, a bot {bot}", []).append(cpu)
    return {name: statistics.median(each[warm_up:]) for name, each in found.items()}


def _worker(folder: Path, run: _Run) -> Path:
    for name, text in _WORKER.items():
        (folder / name).write_text(text)
    run(folder, _COMMAND, "migrate", "revision")
    return folder / "jobs.py"


def _init(folder: Path, run: _Run) -> Path:
    run(folder, _COMMAND, "init", ".")
    return folder / "bot" / "notes.py"


def _ran(python: tuple[str, ...], folder: Path, program: str, *arguments: str) -> float:
    """Return the CPU seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(  # noqa: S603 -- this very program
        [*python, "-c", program, *arguments],
        check=True,
        capture_output=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
