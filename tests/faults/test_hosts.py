"""Units in programs that are no bots: M21."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy.engine import URL
from support.programs import said_by

#: A model, and how each program ends.
BEGIN: Final = """
import asyncio, sys
from contextlib import asynccontextmanager
from sqlalchemy import func, select
from sqlalchemy.orm import Mapped, mapped_column
from db_manager import Base, DatabasePlugin
from lifecycle import Application

class Visit(Base):
    __tablename__ = "hosts__visit"
    id: Mapped[int] = mapped_column(primary_key=True)

async def visit(uow):
    uow.session.add(Visit())
    await uow.session.flush()
    return await uow.session.scalar(select(func.count(Visit.id)))

runtime = Application([DatabasePlugin], config={"app": {"journal": "memory"}})
"""
END: Final = """
print(*{plugin.state for plugin in runtime.plugins.values()})
print("aiogram" in sys.modules)
"""
FASTAPI: Final = """
from fastapi import FastAPI, Request

@asynccontextmanager
async def lifespan(app):
    async with runtime:
        yield {"uow_factory": runtime.services["db_manager:uow_factory"]}

app = FastAPI(lifespan=lifespan)

@app.get("/visit")
async def answer(request: Request) -> int:
    return await request.state.uow_factory.run(visit)

async def main():
    # What a server of ASGI does with an application.
    requests, answers, state = asyncio.Queue(), asyncio.Queue(), {}
    requests.put_nowait({"type": "lifespan.startup"})
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    serving = asyncio.create_task(app(scope, requests.get, answers.put))
    assert (await answers.get())["type"] == "lifespan.startup.complete"
    sent = []
    request = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": "/visit", "raw_path": b"/visit", "root_path": "",
        "query_string": b"", "headers": [], "state": dict(state),
    }
    async def receive():
        return {"type": "http.request", "body": b""}
    async def send(message):
        sent.append(message)
    await app(request, receive, send)
    print(sent[0]["status"], sent[1]["body"].decode())
    requests.put_nowait({"type": "lifespan.shutdown"})
    assert (await answers.get())["type"] == "lifespan.shutdown.complete"
    await serving

asyncio.run(main())
"""
FASTSTREAM: Final = """
from faststream import Context, ContextRepo, FastStream
from faststream.nats import NatsBroker, TestNatsBroker
from faststream import TestApp

broker = NatsBroker()

@broker.subscriber("visits")
async def answer(text: str, uow_factory=Context()) -> int:
    return await uow_factory.run(visit)

@asynccontextmanager
async def lifespan(context: ContextRepo):
    async with runtime:
        context.set_global("uow_factory", runtime.services["db_manager:uow_factory"])
        yield

service = FastStream(broker, lifespan=lifespan)

async def main():
    async with TestNatsBroker(broker), TestApp(service):
        answer = await broker.request("hello", "visits")
        print(200, await answer.decode())

asyncio.run(main())
"""
SCRIPT: Final = """
async def main():
    async with runtime as app:
        print(200, await app.services["db_manager:uow_factory"].run(visit))

asyncio.run(main())
"""
DAEMON: Final = """
import os, signal
from lifecycle import Plugin

class Daemon(Plugin):
    name = "daemon"
    requires = ("db_manager",)

    async def start(self, context):
        context.spawn(self.work(context.services["db_manager:uow_factory"]))

    async def work(self, uow_factory):
        print(200, await uow_factory.run(visit))
        os.kill(os.getpid(), signal.SIGTERM)

runtime = Application([DatabasePlugin, Daemon], config={"app": {"journal": "memory"}})

async def main():
    event = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, event.set)
    async with runtime:
        await event.wait()

asyncio.run(main())
"""
HOSTS: Final = {
    "FastAPI": FASTAPI,
    "FastStream": FASTSTREAM,
    "a script": SCRIPT,
    "a daemon, ended by SIGTERM": DAEMON,
}

Row = Callable[..., None]


@pytest.mark.parametrize("host", list(HOSTS))
def test_a_host_that_is_no_bot(
    tmp_path: Path, database_url: URL, host: str, row: Row, *, full: bool
) -> None:
    """M21: it starts the application, works in units, and ends well; aiogram is not imported."""
    rounds = 3 if full else 1
    where = database_url.render_as_string(hide_password=False)
    variables: dict[str, Any] = {
        "DATABASE__URL": where,
        "PYTHONPATH": os.fspath(Path(__file__).parents[2]),
    }
    program = tmp_path / "host.py"
    program.write_text(BEGIN + HOSTS[host] + END, encoding="utf-8")
    for number in range(1, rounds + 1):
        said = said_by(sys.executable, program, cwd=tmp_path, **variables).splitlines()
        assert said == [f"200 {number}", "unloaded", "False"]
    row(
        "M21",
        load=f"{database_url.drivername}: {host}, {rounds} ×",
        result="runs, ends well, without aiogram",
    )
