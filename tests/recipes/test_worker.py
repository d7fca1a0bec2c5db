"""The recipe of a worker without aiogram."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from db_manager.testing import Faults, Sandbox
from examples.recipes import worker
from examples.recipes.worker import CONFIG, Job, Worker, do_next
from lifecycle import HookTimeoutError, PluginFailedError
from observability.testing import EventRecorder

ROOT = Path(__file__).parents[2]
#: The recipe as it is, with a job that takes until a line is read, and says what happens.
PROGRAM = """
import asyncio
import sys
from examples.recipes import worker

async def do(text):
    print("doing", text, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    return text.upper()

async def stop(self, context, stop=worker.Worker.stop):
    print("told to stop", flush=True)
    await stop(self, context)

worker.do = do
worker.Worker.stop = stop
asyncio.run(worker.main())
assert "aiogram" not in sys.modules
print("stopped")
"""


async def add(sandbox: Sandbox, *texts: str) -> None:
    """Add jobs."""
    async with sandbox.uow_factory() as uow:
        for text in texts:
            uow.session.add(Job(text=text))
            await uow.session.flush()


async def results(sandbox: Sandbox) -> list[str | None]:
    """Return what came out of each job, also while a worker writes."""
    async with sandbox.uow_factory(read_only=True) as uow:
        return list(await uow.session.scalars(select(Job.result).order_by(Job.id)))


@asynccontextmanager
async def working(folder: Path) -> AsyncIterator[Process]:
    """Run the worker as a program on the sandbox, to which the environment leads."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", PROGRAM),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=PIPE,
        stdout=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line(process: Process) -> str:
    """Return the next line that the worker says; an empty one when it has ended."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


@pytest.mark.matrix(
    "M21",
    load="a worker that is told to stop in a unit",
    result="the unit is committed; ends well, without aiogram",
)
async def test_a_job_in_the_middle_is_finished(sandbox: Sandbox, tmp_path: Path) -> None:
    """SIGTERM in the middle of a unit: it is committed, no other begins, and the end is a good one.

    All of that without aiogram.
    """
    await add(sandbox, "milk", "tea")
    async with working(tmp_path) as process:
        assert await line(process) == "doing milk"
        process.terminate()
        assert await line(process) == "told to stop"
        assert await results(sandbox) == [None, None]
        assert process.stdin is not None
        process.stdin.write(b"\n")
        assert await line(process) == "stopped"
        assert await process.wait() == 0
    assert await results(sandbox) == ["MILK", None]
    assert os.listdir(tmp_path) == []  # noqa: PTH208 -- of an async function, as short


async def test_a_job_of_a_dead_worker_is_done_by_another(sandbox: Sandbox, tmp_path: Path) -> None:
    """After kill -9 in the middle of a unit its job is there as it was."""
    await add(sandbox, "milk")
    async with working(tmp_path) as process:
        assert await line(process) == "doing milk"
        process.kill()
        await process.wait()
    while not await sandbox.uow_factory.run(do_next):
        pass  # the server has not noticed yet that nobody is there
    assert await results(sandbox) == ["MILK"]


async def test_a_job_that_fails_does_not_hold_up_the_others(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is kept beside it, also when the database is what refuses the result."""
    await add(sandbox, "milk", "error", "no text", "tea")

    async def do(text: str) -> object:
        if text == "error":
            raise ValueError(text)
        return object() if text == "no text" else text.upper()

    monkeypatch.setattr(worker, "do", do)
    found = [await sandbox.uow_factory.run(do_next) for _ in range(5)]
    assert found == [True, True, True, True, False]
    assert await results(sandbox) == ["MILK", None, None, "TEA"]
    async with sandbox.uow_factory() as uow:
        errors = list(await uow.session.scalars(select(Job.error).order_by(Job.id)))
    assert [bool(error) for error in errors] == [False, True, True, False]
    assert errors[1] == "ValueError('error')"


async def test_two_workers_take_two_jobs(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side each takes a job that the other one has not; on SQLite one after the other."""
    await add(sandbox, "milk", "tea")
    both = asyncio.Barrier(2 if sandbox.url.drivername.startswith("postgresql") else 1)

    async def do(text: str) -> str:
        await both.wait()
        return text.upper()

    monkeypatch.setattr(worker, "do", do)
    found = await asyncio.gather(*(sandbox.uow_factory.run(do_next) for _ in range(2)))
    assert found == [True, True]
    assert await results(sandbox) == ["MILK", "TEA"]


async def test_it_works_on_after_a_refusal(
    sandbox: Sandbox, faults: Faults, events: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that the database refuses is tried again, and the plugin is not degraded."""
    monkeypatch.setattr(worker, "PAUSE", 0.0)
    await add(sandbox, "milk")
    faults.refuse_commit()
    await sandbox.start(Worker, config=CONFIG)
    await events.wait_for("uow.rollback")
    await events.wait_for("uow.commit", plugin="worker")
    events.assert_none("plugin.degraded")
    assert await results(sandbox) == ["MILK"]


async def test_a_job_that_takes_too_long_is_left_to_the_next(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not done by the deadline of the stop is rolled back, and the error names who."""
    await add(sandbox, "milk")
    begun, never = asyncio.Event(), asyncio.Event()

    async def do(text: str) -> str:
        begun.set()
        await never.wait()
        return text

    monkeypatch.setattr(worker, "do", do)
    monkeypatch.setattr(Worker, "stop_timeout", 0.05)
    app = await sandbox.start(Worker, config=CONFIG)
    await begun.wait()
    with pytest.raises(ExceptionGroup) as caught:
        await app.unload()
    (failed,) = caught.value.exceptions
    assert isinstance(failed, PluginFailedError)
    assert (failed.plugin, failed.hook) == ("worker", "stop")
    assert isinstance(failed.error, HookTimeoutError)
    assert await results(sandbox) == [None]
