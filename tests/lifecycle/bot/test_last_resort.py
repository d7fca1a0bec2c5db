"""A process that was told to stop ends, whatever in it does not want to."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

from lifecycle import Application
from lifecycle.bot import run_polling
from lifecycle.testing import BotApiServer

HANDLER = "deaf.<locals>"


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("handler", f"update 1 (__main__.{HANDLER}.deaf_handler)"),
        ("executor", "thread asyncio_0 (in stuck)"),
        ("pool", "thread mine_0 (in stuck)"),
        ("thread", "thread mine (in stuck)"),
        ("task", "for_ever"),
        ("nameless", "something"),
        (
            "subscriber",
            f"subscriber __main__.{HANDLER}.publishing_handler.<locals>.deaf_subscriber",
        ),
        ("hook", f"shutdown hook __main__.{HANDLER}.hooking_handler.<locals>.deaf_hook"),
    ],
)
async def test_what_does_not_end_is_named(
    run_child: Callable[..., Any], what: str, named: str
) -> None:
    """It keeps the process for `grace` at most; the run was over, and the journal says so."""
    child = await run_child(drain=0.2, grace=1.0)
    await child.ada.say(f"/{what}")
    await child.says("working")
    child.terminate()
    assert await asyncio.wait_for(child.exit_code(), 10) == 1
    assert f"ending the process: {named} did not stop" in child.stderr
    child.journal()


async def test_the_end_needs_no_new_thread(run_child: Callable[..., Any]) -> None:
    """A process that can start no thread any more, as an interpreter that ends, is ended too."""
    child = await run_child(slow="no more threads", drain=0.2, grace=1.0)
    await child.ada.say("/task")
    await child.says("working")
    child.terminate()
    assert await asyncio.wait_for(child.exit_code(), 10) == 1
    assert "ending the process: for_ever did not stop" in child.stderr


async def test_a_task_of_a_plugin_that_does_not_end(run_child: Callable[..., Any]) -> None:
    """It fails its plugin's stop, and is left behind: the process ends without it."""
    child = await run_child(drain=0.2, grace=1.0)
    await child.ada.say("/spawned")
    await child.says("working")
    child.terminate()
    assert await asyncio.wait_for(child.exit_code(), 10) == 1
    assert "ending the process: for_ever did not stop" in child.stderr
    assert "plugin.failed" in [entry.event.topic for entry in child.journal()]


async def test_a_blocked_loop_does_not_keep_the_process(run_child: Callable[..., Any]) -> None:
    """Nobody can be stopped in order: what every run has in line is written, the process ends."""
    child = await run_child(drain=0.2, grace=1.0)
    await child.ada.say("/block")
    await child.says("working")
    child.terminate()
    assert await asyncio.wait_for(child.exit_code(), 10) == 1
    handler = f"update 1 (__main__.{HANDLER}.blocking_handler)"
    assert f"{handler}, the main thread (in stuck) did not stop" in child.stderr
    assert (child.folder / "flushed").exists()


async def test_a_program_that_goes_on_is_left_alone(
    run_child: Callable[..., Any], server: BotApiServer
) -> None:
    """What a program does after its bot has no deadline of ours."""
    child = await run_child(slow="goes on", drain=0.1, grace=0.3)
    await server.wait(
        lambda: [c for c in server.calls if c.method == "getUpdates"] or None, "getUpdates", 5
    )
    child.terminate()
    await child.says("going on")
    await asyncio.sleep(3.0)  # longer than grace and the last words together
    await child.ada.say("end")
    assert await child.exit_code() == 0
    assert child.stderr == ""


async def test_the_end_of_a_program_that_went_on_is_its_own(run_child: Callable[..., Any]) -> None:
    """After a run that was cancelled the process ends in its own time, with all its work done."""
    child = await run_child(slow="cancels", drain=0.1, grace=0.3)
    assert await child.exit_code() == 0
    assert child.stderr == ""
    assert (child.folder / "written").exists()


@pytest.mark.parametrize("missing", ["last words", "last resort"])
async def test_no_bot_polls_unseen(
    server: BotApiServer, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Where the threads that watch cannot be started nothing runs, and nothing is left."""
    start, before = threading.Thread.start, set(threading.enumerate())
    started: list[threading.Thread] = []

    def refuse(thread: threading.Thread) -> None:
        if thread.name == missing:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    dispatcher, app = Dispatcher(), Application([])
    bot = Bot(server.token, AiohttpSession(api=TelegramAPIServer.from_base(server.url)))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await run_polling(app, dispatcher, bot)
    monkeypatch.undo()
    assert "run_polling" not in {task.get_name() for task in asyncio.all_tasks()}
    for thread in started:
        thread.join(5)
    assert set(threading.enumerate()) <= before
    assert server.calls == []


@pytest.mark.parametrize("way", ["stop_polling", "cancel"])
async def test_a_run_leaves_no_thread(server: BotApiServer, way: str) -> None:
    """Nobody watches a program that goes on: grace is ten seconds, the threads end before."""
    before = set(threading.enumerate())
    dispatcher = Dispatcher()
    bot = Bot(server.token, AiohttpSession(api=TelegramAPIServer.from_base(server.url)))
    running = asyncio.create_task(run_polling(Application([]), dispatcher, bot))
    await server.wait(
        lambda: [c for c in server.calls if c.method == "getUpdates"] or None, "getUpdates", 5
    )
    ours = [each for each in set(threading.enumerate()) - before if each.name.startswith("last ")]
    assert ours
    if way == "cancel":
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    else:
        await dispatcher.stop_polling()
        await running
    for thread in ours:
        await asyncio.to_thread(thread.join, 9)
        assert not thread.is_alive()
