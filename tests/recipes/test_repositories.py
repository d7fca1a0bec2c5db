"""The recipe of repositories that are moved one by one."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy import select
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError

from db_manager.testing import Faults, Sandbox
from examples.recipes import repositories
from examples.recipes.repositories import Good, Order, make_dispatcher
from lifecycle.testing import BotApiServer, LocalTelegram
from observability.testing import EventRecorder

# That `Orders` still commits is what the recipe is about.
pytestmark = pytest.mark.filterwarnings("ignore::db_manager.LegacySessionWarning")

Poll = Callable[..., AbstractAsyncContextManager[BotApiServer]]


async def kept(sandbox: Sandbox) -> tuple[int, int]:
    """Return how many orders there are, and how much tea is left."""
    async with sandbox.uow_factory() as uow:
        orders = (await uow.session.scalars(select(Order))).all()
        return len(orders), (await uow.session.get_one(Good, "tea")).left


async def test_the_three_kinds_work_in_one_transaction(
    sandbox: Sandbox, telegram: LocalTelegram, events: EventRecorder
) -> None:
    """One unit is committed, the statistics of it see the order that is not committed yet."""
    await telegram.run(sandbox.application(), make_dispatcher())
    ada = telegram.user(7, "Ada")
    await ada.say("/put tea 2")
    assert (await ada.reply()).text == "Done."
    for number in (1, 2):
        update = await ada.say("/buy tea")
        assert (await ada.reply()).text == f"Your order {number}: tea."
        events.update(update).topic("uow.*").assert_exactly(
            "uow.begin", "uow.join", "uow.leave", "uow.commit", "uow.close"
        )
    assert await kept(sandbox) == (2, 0)


async def test_what_a_repository_committed_goes_with_the_unit(
    sandbox: Sandbox, telegram: LocalTelegram
) -> None:
    """An order of what is sold out is not kept, although its repository had called commit()."""
    await telegram.run(sandbox.application(), make_dispatcher())
    ada = telegram.user(7, "Ada")
    await ada.say("/put tea 0")
    await ada.reply()
    await ada.say("/buy tea")
    assert (await ada.reply()).text == "There is no tea."
    assert await kept(sandbox) == (0, 0)


async def test_a_refused_commit_is_the_end_of_all_of_them(
    sandbox: Sandbox, telegram: LocalTelegram, faults: Faults
) -> None:
    """Nothing of any repository stays, and nobody is told that an order is kept."""
    await telegram.run(sandbox.application(), make_dispatcher())
    ada = telegram.user(7, "Ada")
    await ada.say("/put tea 2")
    await ada.reply()
    faults.refuse_commit(handler="buy")
    with pytest.raises(IntegrityError):
        await ada.say("/buy tea")
    assert not ada.unread
    assert await kept(sandbox) == (0, 2)


async def test_its_main_polls(poll: Poll, database_url: URL) -> None:
    """The program answers somebody, and ends when it is told to."""
    async with poll(repositories, database_url) as telegram:
        ada = telegram.user(7, "Ada")
        await ada.say("/put tea 1")
        assert (await ada.reply(timeout=60)).text == "Done."
        await ada.say("/buy tea")
        assert (await ada.reply(timeout=60)).text == "Your order 1: tea."
