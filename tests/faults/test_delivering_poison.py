"""Updates that always fail, or end their process, are parked and harm no other: O5 and O6."""

from collections.abc import Callable
from dataclasses import replace

from sqlalchemy.engine import URL
from support.scene import Size, scene
from support.unreliable import FIRST

#: The key of what is wrong; the exit code of who handles it.
KEY, CODE = 2, 3
DEATHS = 4
FEW = Size(people=4, rate=25.0, seconds=1.0, lease=1.0, patience=60.0)

Row = Callable[..., None]


async def test_an_update_that_always_fails_is_parked(database_url: URL, row: Row) -> None:
    """O5: it is tried as often as configured, told to the error handler once; others go on."""
    async with scene(database_url, FEW, poison=[KEY]) as played:
        while min(played.crowd.said[chat] for chat in played.telegram.chats) <= KEY:
            await played.talk()
        verdict, parked = await played.settled(), await played.books.parked()
        told = played.replicas.count("update.parked"), played.replicas.count("error")
    assert parked == {(chat, KEY) for chat in played.telegram.chats}
    assert verdict.effects_lost == len(parked)
    assert (verdict.wrong("effects_lost"), verdict.duplicates) == ({}, 0)
    assert told == (len(parked), len(parked))
    row(
        "O5",
        load=f"{database_url.get_backend_name()}: update {KEY} of each chat always fails",
        result=f"{len(parked)} parked and told once; {played.summary}: 0 lost, 0 out of order",
    )


async def test_updates_that_end_their_process_are_parked(
    postgres_database: URL, full: bool, row: Row
) -> None:
    """O6: after some deaths each is parked, and no other is, whatever was handled beside it."""
    doomed = 8 if full else 2
    crowd = replace(FEW, people=2 * doomed)
    async with scene(postgres_database, crowd, deadly=KEY, doomed=doomed) as played:
        while len(await played.books.parked()) < doomed:
            await played.talk(played.revive)
        await played.revive()
        verdict, parked = await played.settled(), await played.books.parked()
        deaths = sum(each.code == CODE for each in played.replicas.all)
    assert parked == {(FIRST + each, KEY) for each in range(doomed)}
    assert verdict.effects_lost == doomed
    assert verdict.wrong("effects_lost") == {}
    assert deaths <= DEATHS * doomed  # one may count for several, until they are tried alone
    row(
        "O6",
        load=f"{doomed} updates in {doomed} chats end each process that handles one; others beside",
        result=f"parked after {deaths} deaths in all; {played.summary}: 0 lost, 0 out of order",
    )
