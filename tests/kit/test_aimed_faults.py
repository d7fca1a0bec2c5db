"""Faults strike the unit that is meant: that of a handler, of a plugin, the n-th."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiogram import BaseMiddleware, Dispatcher, Router
from aiogram.filters import Command
from aiogram.types import Message, TelegramObject
from sqlalchemy import BigInteger, func, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.errors import CommitOutcomeUnknownError, PoolExhaustedError
from db_manager.testing import Faults, Sandbox
from db_manager.unit.factory import UnitOfWorkFactory
from lifecycle.bot import include_router
from lifecycle.plugins.context import PluginContext
from lifecycle.plugins.plugin import Plugin
from lifecycle.testing import LocalTelegram

Handler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]


class Visit(Base):
    """Who came by, written by whom."""

    __tablename__ = "aimed__visit"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(BigInteger)
    by: Mapped[str]


@pytest.fixture(scope="session", params=["sqlite", "asyncpg", "psycopg"])
def sandbox_url(request: pytest.FixtureRequest) -> str | URL:
    """Sandboxes on SQLite, and on PostgreSQL with both drivers."""
    if request.param == "sqlite":
        return ""
    admin: URL = request.getfixturevalue("postgres_admin")
    return admin.set(drivername=f"postgresql+{request.param}")


postgres_only = pytest.mark.parametrize("sandbox_url", ["asyncpg", "psycopg"], indirect=True)
sqlite_only = pytest.mark.parametrize("sandbox_url", ["sqlite"], indirect=True)


async def keep(factory: UnitOfWorkFactory, user: int, by: str) -> None:
    """Keep a visit in a unit."""
    async with factory() as uow:
        uow.session.add(Visit(user_id=user, by=by))


class Upsert(BaseMiddleware):
    """Keeps who wrote, as most bots do."""

    async def __call__(self, handler: Handler, event: TelegramObject, data: dict[str, Any]) -> Any:
        """Keep the user, then go on."""
        await keep(data["uow_factory"], data["event_from_user"].id, "upsert")
        return await handler(event, data)


class Shop(Plugin):
    """Sells."""

    name = "shop"
    requires = ("db_manager",)

    async def load(self, context: PluginContext) -> None:
        """Include the handlers."""
        router = Router()
        router.message.middleware(Upsert())
        router.message.register(self.buy, Command("buy"))
        router.message.register(self.gather, Command("gather"))
        await context.enter(include_router(context.services["aiogram:dispatcher"], router))

    async def buy(self, message: Message, uow_factory: UnitOfWorkFactory) -> None:
        """Keep two things."""
        await keep(uow_factory, message.chat.id, "buy")
        await keep(uow_factory, message.chat.id, "log")
        await message.answer("Bought.")

    async def gather(self, message: Message, uow_factory: UnitOfWorkFactory) -> None:
        """Keep in a task of its own."""
        async with asyncio.TaskGroup() as group:
            group.create_task(keep(uow_factory, message.chat.id, "task"))


async def kept(sandbox: Sandbox) -> list[str]:
    """Return who kept something, in order."""
    async with sandbox.uow_factory(read_only=True) as uow:
        return list(await uow.session.scalars(select(Visit.by).order_by(Visit.id)))


async def test_the_unit_of_the_handler_is_struck(
    sandbox: Sandbox, telegram: LocalTelegram, faults: Faults
) -> None:
    """Middlewares that write before the handler, inner ones too, are spared."""
    await telegram.run(sandbox.application(Shop))
    ada = telegram.user(7, "Ada")
    faults.refuse_commit(handler="buy")
    with pytest.raises(IntegrityError):
        await ada.say("/buy")
    assert await kept(sandbox) == ["upsert"]
    await ada.say("/buy")
    assert await kept(sandbox) == ["upsert", "upsert", "buy", "log"]


async def test_the_name_of_a_handler_may_be_short_or_whole(
    sandbox: Sandbox, telegram: LocalTelegram, faults: Faults
) -> None:
    """Its name, its class, with and without the module, as events and traces say it."""
    await telegram.run(sandbox.application(Shop))
    ada = telegram.user(7, "Ada")
    for name in ("Shop.buy", "Shop", f"{__name__}.Shop.buy"):
        faults.lose_commit(committed=False, handler=name)
        with pytest.raises(CommitOutcomeUnknownError):
            await ada.say("/buy")
    faults.refuse_commit(handler="gather")
    with pytest.raises(ExceptionGroup):  # its unit is that of a task which the handler started
        await ada.say("/gather")
    assert await kept(sandbox) == ["upsert"] * 4


async def test_the_nth_unit_is_struck(
    sandbox: Sandbox, telegram: LocalTelegram, faults: Faults
) -> None:
    """Units are counted among those that are meant, from when the fault was armed."""
    await telegram.run(sandbox.application(Shop))
    ada = telegram.user(7, "Ada")
    await ada.say("/buy")
    faults.refuse_commit(unit=2)
    with pytest.raises(IntegrityError):
        await ada.say("/buy")
    assert (await kept(sandbox))[3:] == ["upsert"]
    faults.lose_commit(committed=False, handler="buy", unit=2, times=2)
    with pytest.raises(CommitOutcomeUnknownError):
        await ada.say("/buy")
    assert (await kept(sandbox))[4:] == ["upsert", "buy"]
    with pytest.raises(CommitOutcomeUnknownError):
        await ada.say("/buy")
    assert (await kept(sandbox))[6:] == ["upsert"]
    faults.empty_pool(plugin="shop", unit=2)
    with pytest.raises(PoolExhaustedError):
        await ada.say("/buy")


@postgres_only
async def test_a_statement_of_the_nth_unit_loses_its_connection(
    sandbox: Sandbox, faults: Faults
) -> None:
    """The first unit is well, and the second meets the end of its connection."""
    faults.drop_connection(unit=2)
    await keep(sandbox.uow_factory, 1, "first")
    with pytest.raises(DBAPIError):
        await keep(sandbox.uow_factory, 2, "second")
    assert await kept(sandbox) == ["first"]


async def test_only_units_of_the_plugin_are_struck(
    sandbox: Sandbox, telegram: LocalTelegram, faults: Faults
) -> None:
    """A unit of the test, and what does not belong to a unit, are spared."""
    await telegram.run(sandbox.application(Shop))
    faults.refuse_commit(plugin="shop", handler="keep")
    await keep(sandbox.uow_factory, 1, "test")
    async with sandbox.engine.begin() as connection:
        await connection.execute(text("SELECT 1"))
    with pytest.raises(IntegrityError):
        await telegram.user(7, "Ada").say("/buy")
    assert await kept(sandbox) == ["test"]


@sqlite_only
async def test_what_ran_instead_is_named(sandbox: Sandbox, telegram: LocalTelegram) -> None:
    """A fault that struck nothing says which units there were, and where they were opened."""
    dispatcher = Dispatcher()
    faults = Faults(sandbox)
    await telegram.run(sandbox.application(Shop), dispatcher)
    ada = telegram.user(7, "Ada")
    await ada.say("/buy")
    faults.refuse_commit(handler="pay")
    faults.lose_commit(unit=9)
    number = await ada.say("/buy")
    assert await kept(sandbox)
    with pytest.raises(AssertionError) as caught:
        faults.close()
    said, *units = str(caught.value).splitlines()
    assert said == (
        "faults that never occurred: refuse_commit(handler='pay'), lose_commit(unit=9); the units "
        "that were opened:"
    )
    assert len(units) == 4
    assert all("opened in keep (test_aimed_faults.py:" in unit for unit in units[:3])
    assert units[1].endswith(f", called by Shop.buy, plugin shop, update {number}")
    assert ", called by Upsert.__call__, plugin" in units[0]
    assert "opened in kept (test_aimed_faults.py:" in units[3]
    assert "only reading" in units[3]


@sqlite_only
async def test_a_wrong_aim_is_refused(sandbox: Sandbox, faults: Faults) -> None:
    """There is no unit 0, and no other way to aim."""
    with pytest.raises(ValueError, match="the first unit is 1"):
        faults.refuse_commit(unit=0)
    with pytest.raises(TypeError, match="handlr"):
        faults.refuse_commit(handlr="buy")  # type: ignore[call-arg]  # that is the point
    count = select(func.count()).select_from(Visit)
    async with sandbox.uow_factory() as uow:
        assert await uow.session.scalar(count) == 0


@sqlite_only
async def test_a_fault_that_met_no_unit_says_so(sandbox: Sandbox) -> None:
    """Nothing was opened, and after that the faults can be used again."""
    faults = Faults(sandbox)
    faults.refuse_commit(handler="pay")
    with pytest.raises(AssertionError, match=r"'pay'\); no unit of work was opened on"):
        faults.close()
    faults.refuse_commit(handler="keep")
    with pytest.raises(IntegrityError):
        await keep(sandbox.uow_factory, 1, "nobody")
    faults.close()
