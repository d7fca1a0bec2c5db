"""Files survive the death of who was to send them, byte for byte: O25."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.kept import Kept, kept
from support.lives import lives
from support.numbered_files import CHATS, UNITS, content_of, on_the_web

from lifecycle.testing import BotApiServer, UploadedFile

#: Every fourth unit has its file twice.
ALBUM = 4

Row = Callable[..., None]


def uploaded(server: BotApiServer) -> list[UploadedFile]:
    """Return the files that have arrived; a field and the part that it refers to are the same."""
    found: list[UploadedFile] = []
    for call in server.calls:
        if call.method.startswith("send"):
            parts = [each for each in call.params.values() if isinstance(each, UploadedFile)]
            found += {id(each): each for each in parts}.values()
    return found


async def is_over(app: Kept, units: int) -> bool:
    """Return whether so many units were committed, and nothing is left to be sent."""
    [(written,)] = await app.sql("SELECT count(*) FROM written")
    return written >= units and await app.is_settled()


@pytest.mark.timeout(1200)
async def test_files_arrive_as_they_were_whoever_sends_them(
    database_url: URL, tmp_path: Path, row: Row, *, full: bool
) -> None:
    """O25: of each kind, after each SIGKILL; what is refused is refused before it is written."""
    kills = 100 if full else 3
    async with (
        BotApiServer() as server,
        on_the_web() as files,
        kept(database_url) as app,
        lives(Path(__file__).parent / "sending_files.py") as program,
    ):
        await app.sql("CREATE TABLE written (number bigint)")
        for chat in CHATS:
            await server.user(chat, f"Person {chat}").say("/start")
        url = database_url.render_as_string(hide_password=False)
        given = (url, server.url, server.token, files, str(tmp_path))
        for life in range(kills):
            arrived = len(uploaded(server)) + random.randint(1, UNITS // 2)
            await app.bury()
            await program.begin(*given, str(life * UNITS))
            while len(uploaded(server)) < arrived:  # noqa: ASYNC110 -- it tells nobody
                await asyncio.sleep(0.005)
            assert await program.kill() == []
        await app.bury()
        before = (await app.sql("SELECT count(*) FROM written"))[0][0]
        await program.begin(*given, str(kills * UNITS))
        while not await is_over(app, before + UNITS):  # noqa: ASYNC110 -- of a database
            await asyncio.sleep(0.02)
        await program.kill()
        written = {number for (number,) in await app.sql("SELECT number FROM written")}
        kept_still = await app.sql("SELECT count(*) FROM delivery__file")
    found = uploaded(server)
    assert [each.name for each in found if each.content != content_of(int(each.name))] == []
    due = Counter({str(each): 1 + (each % ALBUM == 0) for each in written})
    came = Counter(each.name for each in found)
    assert due - came == Counter()
    assert came.keys() == due.keys()
    # Of a chat one message is on its way at a time, and an album has two files.
    assert (came - due).total() <= 2 * len(CHATS) * kills
    assert kept_still == [(0,)]
    row(
        "O25",
        load=f"{database_url.get_backend_name()}: {kills} x SIGKILL; files of memory, of the file "
        "system, of the web, in albums; one over the limit, one with headers, one of its own class",
        result=f"{len(found)} files, each as it was, {(came - due).total()} twice; refused by name "
        "in each unit, nothing of them written",
    )
