"""Several bots behind aiohttp: examples/recipes/webhook.py."""

import aiohttp
from sqlalchemy.engine import URL
from support.ports import free_port, listens
from support.programs import PATIENCE, Run, all_taken, hold_answers
from support.tables import locked, read

from lifecycle.testing import BotApiServer

ROWS = "SELECT text FROM helpdesk__complaint WHERE bot_id = {} ORDER BY text"
MANY = 10
HELD = "answered at SIGTERM"


async def test_several_bots_answer_and_stop_whole(run: Run, database_url: URL) -> None:
    """Each bot has its path; what was delivered when SIGTERM came is committed and answered."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with (
        BotApiServer("101:local") as first,
        BotApiServer("102:local") as second,
        run("webhook.py", first, second, PUBLIC_URL=url, PORT=str(port)) as server,
    ):
        servers = {101: first, 102: second}
        people = {number: each.user(id=7, name="Ada") for number, each in servers.items()}
        for number, ada in people.items():
            call = await servers[number].call("setWebhook", timeout=PATIENCE)
            assert call.params["url"] == f"{url}/bots/{number}"
            await ada.say("00")
            assert (await ada.reply(PATIENCE)).text.startswith("Your number is ")
        async with aiohttp.ClientSession() as http:
            for path, status in (("/bots/101", 401), ("/bots/103", 404)):
                async with http.post(f"{url}{path}", json={"update_id": 1}) as answer:
                    assert answer.status == status
        goes_on = hold_answers(first, "Your number")
        await people[101].say(HELD)
        held = await people[101].reply(PATIENCE)
        async with locked(database_url, "helpdesk__complaint"):
            for number, ada in people.items():
                for what in range(1, MANY):
                    await ada.say(f"{what:02}")
                await all_taken(servers[number])
            server.terminate()
            while listens(port):
                pass
            goes_on.set()
        await server.ends()
        people[101].unread.appendleft(held)
        for number, ada in people.items():
            expected = [f"{each:02}" for each in range(MANY)] + [HELD] * (number == 101)
            assert await read(database_url, ROWS.format(number)) == expected
            numbers = [int(message.text.split()[-1].strip(".")) for message in ada.unread]
            sql = f"SELECT id FROM helpdesk__complaint WHERE bot_id = {number} AND text > '00'"
            assert sorted(numbers) == sorted(await read(database_url, sql))
