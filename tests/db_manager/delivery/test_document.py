"""The bot of docs/delivery.md."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from db_manager.delivery import DeliveryPlugin
from db_manager.testing import Faults, Outbox, Sandbox
from lifecycle.testing import LocalTelegram

PAGE = Path(__file__).parents[3] / "docs" / "delivery.md"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The files of the page, in a folder."""
    code = PAGE.read_text(encoding="utf-8")
    for name, block in re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", code, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(block, encoding="utf-8")
    return tmp_path / "config.toml"


async def test_nobody_is_told_of_what_was_rolled_back(
    config: Path, sandbox: Sandbox, telegram: LocalTelegram, faults: Faults
) -> None:
    """An answer comes with the row that it speaks of, and not without; the later one waits."""
    await telegram.run(sandbox.application(config=config))
    ada = telegram.user(7, "Ada")
    faults.refuse_commit(handler="add")
    with pytest.raises(IntegrityError):
        await ada.say("/note lost")
    await ada.say("/note milk")
    assert (await ada.reply()).text == "Noted."
    async with sandbox.uow_factory(read_only=True) as uow:
        assert list(await uow.session.scalars(text("SELECT text FROM diary__entry"))) == ["milk"]
    assert not ada.unread


async def test_a_broadcast_reaches_who_has_subscribed(
    config: Path, sandbox: Sandbox, telegram: LocalTelegram
) -> None:
    """Its number comes with the answer, and what became of it is told to who asks."""
    await telegram.run(sandbox.application(config=config))
    ada, bob = telegram.user(7, "Ada"), telegram.user(8, "Bob")
    for user in (ada, bob):
        await user.say("/subscribe")
    await bob.block()
    await ada.say("/publish We are back.")
    came = {(await ada.reply(timeout=20)).text for _ in range(2)}
    assert came == {"Number 1 begins.", "We are back."}
    told = ""
    while told != "1 of 2, 1 have blocked us.":
        await ada.say("/progress 1")
        told = (await ada.reply()).text
        assert told.endswith(" blocked us.")


async def test_a_purchase_is_told_to_other_programs(
    config: Path, sandbox: Sandbox, outbox: Outbox
) -> None:
    """The event of the page, with the section of the page: in a sandbox it goes to a list."""
    orders = runpy.run_path(str(config.with_name("orders.py")))
    section = tomllib.loads(config.with_name("broker.toml").read_text(encoding="utf-8"))
    app = await sandbox.start(DeliveryPlugin, config=section)
    await orders["buy"]("tea", app.services["db_manager:uow_factory"])
    [told] = await outbox.settled()
    assert (told.state, told.method) == ("sent", "orders.placed")
    [event] = outbox.published()
    assert (event.subject, event.key, event.body) == (
        "orders.placed",
        "tea",
        {"id": 1, "good": "tea"},
    )


async def test_a_step_that_is_rolled_back_is_asked_again(
    config: Path, sandbox: Sandbox, telegram: LocalTelegram, faults: Faults
) -> None:
    """The user says the age again, which is then kept with the name that was said before."""
    await telegram.run(sandbox.application(config=config))
    ada = telegram.user(7, "Ada")
    await ada.say("/start")
    assert (await ada.reply()).text == "Your name?"
    await ada.say("Ada")
    assert (await ada.reply()).text == "Your age?"
    faults.refuse_commit(handler="take_age")
    with pytest.raises(IntegrityError):
        await ada.say("36")
    assert not ada.unread
    await ada.say("36")
    assert (await ada.reply()).text == "Thank you, Ada."
    async with sandbox.uow_factory(read_only=True) as uow:
        assert (await uow.session.execute(text("SELECT * FROM survey__person"))).all() == [
            ("Ada", 36)
        ]
        assert await uow.session.scalar(text("SELECT count(*) FROM delivery__fsm")) == 0
