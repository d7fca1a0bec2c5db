"""The three nights: each breaks the bot, and asks what happened with the commands there are."""

import asyncio
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from examples.night.office import Answer, Office, office

BOT: Final = Path(__file__).parent / "bot"

Scene = Callable[[Office], Awaitable[list[Answer]]]


async def play(scene: Scene) -> list[Answer]:
    """Play a night in a folder that is thrown away.

    Args:
        scene: The night.

    Returns:
        What the commands showed in the morning.
    """
    with TemporaryDirectory() as name:
        folder = Path(name, "bot")
        shutil.copytree(BOT, folder, ignore=shutil.ignore_patterns("__pycache__"))
        async with office(folder) as opened:
            return await scene(opened)


async def does_not_start(office: Office) -> list[Answer]:
    """After a new version the bot is gone: first a key is wrong, then a file is missing."""
    config = office.folder / "config.toml"
    right = config.read_text("utf-8")
    config.write_text(right.replace("file =", "flie ="), "utf-8")
    refused = await office.ask("db-manager check")
    config.write_text(right, "utf-8")
    async with office.bot() as bot:
        await bot.wait()
    return [refused, await office.ask("db-manager trace")]


async def answers_nobody(office: Office) -> list[Answer]:
    """Two users wait for the printer; a third gets no connection."""
    (office.folder / "rates.csv").write_text("EUR,1.0\n", "utf-8")
    ada, grace, edsger = (office.telegram.user(7 + i, n) for i, n in enumerate(_USERS))
    async with office.bot() as bot:
        for user in (ada, grace):
            await user.say("/report")
            await user.reply(_PATIENCE)  # "Printing …"
        await edsger.say("/report")
        await edsger.reply(_PATIENCE)  # "All are busy, try again."
        office.printer_works.set()
        for user in (ada, grace):
            await user.reply(_PATIENCE)
        bot.send_signal(signal.SIGTERM)
        await bot.wait()
    return [await office.ask("db-manager trace"), await office.ask("db-manager check")]


async def was_killed(office: Office) -> list[Answer]:
    """The machine has no memory left and kills the bot; somebody starts it again."""
    (office.folder / "rates.csv").write_text("EUR,1.0\n", "utf-8")
    ada = office.telegram.user(7, "Ada")
    config = office.folder / "config.toml"
    patient = config.read_text("utf-8")
    config.write_text(patient.replace("slow_unit = 30.0", "slow_unit = 0.3"), "utf-8")
    async with office.bot() as bot:
        await ada.say("/report")
        await ada.reply(_PATIENCE)
        await office.until_shown("still open")
        bot.kill()
        await bot.wait()
    office.printer_works.set()
    config.write_text(patient, "utf-8")
    async with office.bot() as bot:
        await ada.say("/report")
        await ada.reply(_PATIENCE)
        await ada.reply(_PATIENCE)
        bot.send_signal(signal.SIGTERM)
        await bot.wait()
    return [
        await office.ask("db-manager trace"),
        await office.ask("db-manager trace --run 1"),
        await office.ask("db-manager timeline --run 1"),
    ]


#: Seconds in which a bot, even on a loaded machine, has started and answered.
_PATIENCE: Final = 120.0
_USERS: Final = ("Ada", "Grace", "Edsger")

#: The nights, by the name of their marker in docs/debugging.md.
SCENES: Final[dict[str, Scene]] = {
    "does-not-start": does_not_start,
    "answers-nobody": answers_nobody,
    "was-killed": was_killed,
}


async def play_all() -> dict[str, list[Answer]]:
    """Play all nights, at once; return what the commands showed, by the name of the night."""
    answers = await asyncio.gather(*(play(scene) for scene in SCENES.values()))
    return dict(zip(SCENES, answers, strict=True))
