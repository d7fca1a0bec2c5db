"""Services from dishka: examples/recipes/dishka_services.py."""

from sqlalchemy.engine import URL
from support.programs import PATIENCE, Run, all_taken
from support.tables import locked, read

from lifecycle.testing import BotApiServer


async def test_services_commit_before_the_answer_and_a_stop_waits_for_them(
    run: Run, database_url: URL
) -> None:
    """Handlers get services with the factory; those at work at SIGTERM commit and answer."""
    async with BotApiServer() as telegram, run("dishka_services.py", telegram) as bot:
        ada, grace = telegram.user(id=7, name="Ada"), telegram.user(id=8, name="Grace")
        await bot.says("Run polling")
        for user, said, answered in (
            (ada, "/shelf", "It is empty."),
            (ada, "/put Solaris", "It is on the shelf."),
            (ada, "/put Ubik", "It is on the shelf."),
            (ada, "/shelf", "Solaris\nUbik"),
            (grace, "/shelf", "It is empty."),
        ):
            await user.say(said)
            assert (await user.reply(PATIENCE)).text == answered
        async with locked(database_url, "shelf__book"):
            for number in range(3):
                await grace.say(f"/put {number}")
            await all_taken(telegram)
            bot.terminate()
            await bot.says("Polling stopped$")
            assert not grace.unread
        for _ in range(3):
            assert (await grace.reply(PATIENCE)).text == "It is on the shelf."
        await bot.ends()
    titles = "SELECT title FROM shelf__book WHERE chat_id = 8 ORDER BY title"
    assert await read(database_url, titles) == ["0", "1", "2"]
