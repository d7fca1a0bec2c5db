"""The recipe of a script without aiogram and without plugins."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from db_manager.testing import Faults, Sandbox
from examples.recipes import script
from examples.recipes.script import Visit, forget

#: The script as it is, and then a look at what it has imported.
PROGRAM = """
import runpy
import sys
sys.argv = ["script.py", "30"]
runpy.run_path({file!r}, run_name="__main__")
assert "aiogram" not in sys.modules
"""


async def visit(sandbox: Sandbox, *days: int) -> None:
    """Add visits of some days ago."""
    now = datetime.now(UTC)
    async with sandbox.uow_factory() as uow:
        uow.session.add_all([Visit(at=now - timedelta(days=each)) for each in days])


async def count(sandbox: Sandbox) -> int:
    """Return how many visits there are."""
    async with sandbox.uow_factory() as uow:
        return await uow.session.scalar(select(func.count(Visit.id))) or 0


async def test_it_deletes_some_at_a_time(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Old visits go, in units of a few, and young ones stay."""
    monkeypatch.setattr(script, "AT_ONCE", 2)
    await visit(sandbox, 31, 32, 33, 29, 1)
    await forget(30)
    assert capsys.readouterr().out.splitlines() == [
        "3 visits are older than 30 days.",
        "2 deleted.",
        "1 deleted.",
    ]
    assert await count(sandbox) == 2


async def test_what_it_did_not_say_is_there(
    sandbox: Sandbox, faults: Faults, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refused commit ends it with its error, and no visit is gone."""
    await visit(sandbox, 31, 32)
    faults.refuse_commit()
    with pytest.raises(IntegrityError):
        await forget(30)
    assert "deleted" not in capsys.readouterr().out
    assert await count(sandbox) == 2


@pytest.mark.matrix("M21", load="a script", result="runs and ends well, without aiogram")
async def test_it_runs_as_a_program(sandbox: Sandbox, tmp_path: Path) -> None:
    """`python script.py 30` ends well, warns of nothing, and has not imported aiogram."""
    await visit(sandbox, 31, 1)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", PROGRAM.format(file=script.__file__)),
        cwd=tmp_path,
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    assert out.decode().splitlines() == ["1 visits are older than 30 days.", "1 deleted."]
    assert await count(sandbox) == 1
