"""FastAPI and sqladmin beside the bot: examples/recipes/web_admin.py."""

import asyncio
import socket

import aiohttp
from sqlalchemy.engine import URL
from support.ports import free_port
from support.programs import PATIENCE, Run
from support.tables import locked, read

from lifecycle.testing import BotApiServer

MANY = 5


async def test_bot_api_and_admin_share_the_database_and_the_stop(
    run: Run, database_url: URL
) -> None:
    """The bot shows what API and admin wrote; a request at work at SIGTERM commits and answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    async def add(http: aiohttp.ClientSession, name: str) -> int:
        async with http.post(f"{url}/dishes", params={"name": name}) as answer:
            assert answer.status == 200
            return int(await answer.text())

    sent, trace = asyncio.Semaphore(0), aiohttp.TraceConfig()

    async def count(*_: object) -> None:
        sent.release()

    trace.on_request_headers_sent.append(count)  # type: ignore[attr-defined]  # it is a list
    async with (
        BotApiServer() as telegram,
        run("web_admin.py", telegram, PORT=str(port)) as bot,
        aiohttp.ClientSession() as http,
        aiohttp.ClientSession(trace_configs=[trace]) as many,
        aiohttp.ClientSession() as later,
    ):
        ada = telegram.user(id=7, name="Ada")
        await bot.says("Run polling")
        await ada.say("menu")
        assert (await ada.reply(PATIENCE)).text == "Nothing today."
        assert await add(http, "soup") == 1
        form = {"name": "cake", "save": "Save"}
        async with http.post(f"{url}/admin/dish/create", data=form) as answer:
            assert "cake" in await answer.text()
        await ada.say("menu")
        assert (await ada.reply(PATIENCE)).text == "soup\ncake"
        async with locked(database_url, "menu__dish"):
            waiting = [asyncio.create_task(add(many, f"dish {n}")) for n in range(MANY)]
            for _ in range(MANY):
                await sent.acquire()
            # Who connects after them and is answered shows that the server has read theirs.
            async with later.get(f"{url}/openapi.json") as answer:
                assert answer.status == 200
            bot.terminate()
            await bot.says("Shutting down")
            assert not any(task.done() for task in waiting)
        numbers = await asyncio.gather(*waiting)
        await bot.ends()
    sql = "SELECT id FROM menu__dish WHERE name LIKE 'dish %' ORDER BY id"
    assert await read(database_url, sql) == sorted(numbers)


async def test_a_bot_without_its_web_server_does_not_start(run: Run) -> None:
    """An address that is taken ends the start, with the plugin's name and what is wrong."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with BotApiServer() as telegram, run("web_admin.py", telegram, PORT=port) as bot:
            await bot.ends(code=1)
    assert "'web'" in (await bot.says("PluginFailedError"))
    assert await bot.says("Address already in use")
