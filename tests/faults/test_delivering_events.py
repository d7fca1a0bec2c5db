"""Events reach a broker while those who bring them, and the broker, are killed: O20."""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import nats
from sqlalchemy.engine import URL
from support.nats_server import NatsServer, nats_server
from support.scene import Size, scene
from support.verdict import Entry

#: What is published of each entry; see `Clerk` in tests/faults/delivering.py.
SUBJECT: Final = "ledger.entered"
_STREAM: Final = "ledger"

Row = Callable[..., None]


async def heard(server: NatsServer) -> list[Entry]:
    """Return what is in the stream."""
    client = await nats.connect(server.url)
    stream = client.jetstream()
    last = (await stream.stream_info(_STREAM)).state.messages
    found = []
    for number in range(1, last + 1):
        message = await stream.get_msg(_STREAM, number)
        found.append(Entry(**json.loads(message.data or b"")))
    await client.close()
    return found


def by_chat(entries: list[Entry]) -> dict[int, list[Entry]]:
    """Return the entries of each chat, in their order."""
    found: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.chat].append(entry)
    return found


async def test_events_survive_who_brings_them_and_the_broker(
    database_url: URL, size: Size, row: Row
) -> None:
    """O20: a stream has each committed unit once, in the order of its chat, and no other."""
    broker_kills = 0
    async with nats_server() as server:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name=_STREAM, subjects=[SUBJECT])
        await client.close()

        async def kill_broker() -> None:
            nonlocal broker_kills
            await asyncio.sleep(random.uniform(0.5, 2.0))
            await server.kill()
            await asyncio.sleep(random.uniform(0.0, 0.5))
            await server.begin()
            broker_kills += 1

        async with scene(database_url, size, keys={"broker": server.url}) as played:
            await played.talk(played.kill_one, kill_broker)
            verdict = await played.settled()
            entries = await played.books.entries()
            published = await heard(server)
    assert verdict.wrong() == {}
    assert by_chat(published) == by_chat(entries)
    assert broker_kills
    row(
        "O20",
        load=f"{database_url.get_backend_name()}: {played.kills} x SIGKILL of a replica, "
        f"{broker_kills} of NATS",
        result=f"{len(published)} events: 0 lost, 0 twice, 0 out of order, none of a unit that "
        "never was",
    )
