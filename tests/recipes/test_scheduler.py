"""APScheduler as a plugin: examples/recipes/scheduler.py."""

from sqlalchemy.engine import URL
from support.programs import PATIENCE, Run, hold_answers
from support.tables import read

from lifecycle.testing import BotApiServer

SAYS_HOW = "Write /remind, minutes and what of: /remind 5 tea."
LEFT = "SELECT text FROM reminders__reminder ORDER BY text"


async def test_a_job_at_work_when_the_bot_is_stopped_ends_and_commits(
    run: Run, database_url: URL
) -> None:
    """A reminder that is being sent at SIGTERM is deleted too: nobody gets it a second time."""
    async with BotApiServer() as telegram, run("scheduler.py", telegram) as bot:
        ada = telegram.user(id=7, name="Ada")
        await bot.says("Run polling")
        for said, answered in (
            ("/remind", SAYS_HOW),
            ("/remind me", SAYS_HOW),
            ("/remind 5 bread", "I will."),
        ):
            await ada.say(said)
            assert (await ada.reply(PATIENCE)).text == answered
        goes_on = hold_answers(telegram, "tea")
        await ada.say("/remind 0 tea")
        assert {(await ada.reply(PATIENCE)).text for _ in range(2)} == {"I will.", "tea"}
        bot.terminate()
        await bot.says("Paused scheduler")
        assert await read(database_url, LEFT) == ["bread", "tea"]
        goes_on.set()
        await bot.ends()
        assert not ada.unread
    assert await read(database_url, LEFT) == ["bread"]
