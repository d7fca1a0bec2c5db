"""The recipe of a service of FastStream, on its test broker, and on a real NATS."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from pathlib import Path

import nats
import pytest
from faststream import TestApp
from faststream.nats import TestNatsBroker
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from support.nats_server import nats_server

from db_manager import ManagerClosedError
from db_manager.testing import Faults, Sandbox
from examples.recipes import faststream_service
from examples.recipes.faststream_service import Delivery, Order, broker, service


async def kept(sandbox: Sandbox) -> list[tuple[str, str]]:
    """Return what is to be delivered."""
    async with sandbox.uow_factory() as uow:
        rows = await uow.session.scalars(select(Delivery).order_by(Delivery.key))
        return [(row.key, row.good) for row in rows]


async def ask(key: str, good: str) -> object:
    """Send an order, and return the answer."""
    answer = await broker.request(Order(key=key, good=good), "orders")
    return await answer.decode()


async def test_a_message_is_a_unit(sandbox: Sandbox) -> None:
    """What is answered is committed, and the same order again is kept once."""
    async with TestNatsBroker(broker), TestApp(service):
        assert await ask("1", "tea") == "tea is on its way"
        assert await ask("1", "tea") == "tea is on its way"
        assert await ask("2", "milk") == "milk is on its way"
        assert await kept(sandbox) == [("1", "tea"), ("2", "milk")]


async def test_what_is_not_kept_is_not_answered(sandbox: Sandbox, faults: Faults) -> None:
    """A refused commit leaves the handler as its error; nothing is there."""
    async with TestNatsBroker(broker), TestApp(service):
        faults.refuse_commit()
        with pytest.raises(IntegrityError):
            await ask("1", "tea")
        assert await kept(sandbox) == []


async def test_it_begins_anew(sandbox: Sandbox) -> None:
    """After its end the service has stopped the application, and can be started again."""
    for number in ("1", "2"):
        async with TestNatsBroker(broker), TestApp(service):
            await ask(number, "tea")
            uow_factory = service.context.get("uow_factory")
        with pytest.raises(ManagerClosedError):
            async with uow_factory():
                pass
    assert len(await kept(sandbox)) == 2


async def says(process: Process, text: str) -> None:
    """Wait until the service logs a line with this text."""
    assert process.stdout is not None
    said = ""
    while text not in said:
        said = (await process.stdout.readline()).decode()
        assert said, f"it ended without {text!r}"


async def test_a_message_at_work_is_answered_before_the_end(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real NATS: SIGTERM in the middle of a unit, which is committed and answered."""
    for key in ("LOCK_TIMEOUT", "STATEMENT_TIMEOUT", "IDLE_IN_TRANSACTION_TIMEOUT"):
        monkeypatch.setenv(f"DATABASE__{key}", "100")  # it waits for this test, not the other way
    async with nats_server() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, faststream_service.__file__),
            cwd=tmp_path,
            env={**os.environ, "NATS_URL": server.url},
            stdout=PIPE,
            stderr=STDOUT,
        )
        client = await nats.connect(server.url)
        try:
            await says(process, "started successfully")
            async with sandbox.uow_factory() as uow:  # the same key: the unit of the service waits
                uow.session.add(Delivery(key="1", good="milk"))
                await uow.session.flush()
                order = Order(key="1", good="tea").model_dump_json().encode()
                asking = asyncio.create_task(client.request("orders", order, timeout=60))
                await says(process, "Received")
                process.terminate()
                await says(process, "shutting down")
                await uow.rollback()
            assert (await asking).data == b"tea is on its way"
            assert await process.wait() == 0
        finally:
            await client.close()
            if process.returncode is None:
                process.kill()
            await process.communicate()
        assert await kept(sandbox) == [("1", "tea")]
