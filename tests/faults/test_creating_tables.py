"""Many replicas that start at once on an empty database all start: L7."""

import asyncio
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.forks import forked
from support.postgres import Databases
from support.programs import environment

REPLICAS = 8

Replicas = Callable[[URL, str], Awaitable[list[str]]]


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    """Yield a function that lets replicas create tables together and returns what they say."""
    program = forked(Path(__file__).parent / "creating.py")
    said = environment(PYTHONPATH=str(Path(__file__).parents[1]))
    process = await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE, env=said)

    async def create_together(url: URL, way: str) -> list[str]:
        assert process.stdin is not None
        assert process.stdout is not None
        where = url.render_as_string(hide_password=False)
        process.stdin.write(f"{where} {way} {REPLICAS}\n".encode())
        said = []
        async with asyncio.timeout(60):
            while (line := (await process.stdout.readline()).decode().strip()) != "end":
                said.append(line)
        return said

    yield create_together
    process.kill()
    await process.communicate()


def check(answers: list[str]) -> None:
    """Every replica is well, and exactly one of them created the five tables."""
    assert sorted(answers) == ["created 0"] * (REPLICAS - 1) + ["created 5"]


async def test_all_replicas_start(
    replicas: Replicas, databases: Databases, full: bool, row: Callable[..., None]
) -> None:
    """L7: of eight processes on an empty database one creates the tables, and all are well."""
    rounds = 30 if full else 2
    for _ in range(rounds):
        url = await databases.create()
        check(await replicas(url, "with-lock"))
        await databases.drop(url)
    row(
        "L7",
        load=f"{REPLICAS} processes on an empty database, {rounds} rounds",
        result=f"{rounds * REPLICAS} good starts, each table created once",
    )


async def test_without_the_lock_replicas_fail(replicas: Replicas, databases: Databases) -> None:
    """L7, the wrong way: `create_all` in eight processes at once is caught by the same check."""
    url = await databases.create()
    answers = await replicas(url, "without-lock")
    await databases.drop(url)
    with pytest.raises(AssertionError):
        check(answers)
    assert any(answer.startswith("failed") for answer in answers)
