"""The survey of docs/delivery.md."""

import re
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from db_manager.testing import Faults, Sandbox
from lifecycle.testing import LocalTelegram

PAGE = Path(__file__).parents[3] / "docs" / "delivery.md"


async def test_a_step_that_is_rolled_back_is_asked_again(
    tmp_path: Path, sandbox: Sandbox, telegram: LocalTelegram, faults: Faults
) -> None:
    """The user says the age again, which is then kept with the name that was said before."""
    code = PAGE.read_text(encoding="utf-8")
    for name, block in re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", code, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(block, encoding="utf-8")
    await telegram.run(sandbox.application(config=tmp_path / "config.toml"))
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
