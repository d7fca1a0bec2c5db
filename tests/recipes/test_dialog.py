"""A dialog of aiogram-dialog: examples/recipes/dialog.py."""

from sqlalchemy.engine import URL
from support.programs import PATIENCE, Run, all_taken
from support.tables import locked, read

from lifecycle.testing import BotApiServer

SAYS = "Write what there is to do; press what is done."


async def test_a_window_shows_what_is_committed_also_at_the_stop(
    run: Run, database_url: URL
) -> None:
    """Getters read what callbacks have committed, and one at work at SIGTERM still shows it."""
    async with BotApiServer() as telegram, run("dialog.py", telegram) as bot:
        ada, grace = telegram.user(id=7, name="Ada"), telegram.user(id=8, name="Grace")
        await bot.says("Run polling")
        await ada.say("/start")
        window = await ada.reply(PATIENCE)
        assert (window.text, list(window.buttons)) == (SAYS, [])
        for number, task in enumerate(("milk", "bread"), 1):
            await ada.say(task)
            window = await ada.reply(PATIENCE)
            assert list(window.buttons) == ["✓ milk", "✓ bread"][:number]
        await grace.say("/start")
        assert list((await grace.reply(PATIENCE)).buttons) == []
        await ada.press("✓ milk")
        edited = await telegram.call("editMessageText", PATIENCE)
        [[button]] = edited.params["reply_markup"]["inline_keyboard"]
        assert button["text"] == "✓ bread"
        async with locked(database_url, "todo__task"):
            await grace.say("tea")
            await all_taken(telegram)
            bot.terminate()
            await bot.says("Polling stopped$")
            assert not grace.unread
        assert list((await grace.reply(PATIENCE)).buttons) == ["✓ tea"]
        await bot.ends()
    assert await read(database_url, "SELECT text FROM todo__task ORDER BY text") == ["bread", "tea"]
