"""A web application beside the bot: FastAPI and sqladmin on the engine of the units."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from sqladmin import Admin, ModelView
from sqlalchemy import select
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column
from support.asgi import call

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.unit.uow import UnitOfWork

MANY = 8


class Page(Base):
    """A page."""

    __tablename__ = "web_test__page"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class PageView(ModelView, model=Page):
    """Pages, for sqladmin."""

    column_list = ("id", "title")


@pytest.fixture
async def database(database_url: URL, open_database: Callable[..., Database]) -> Database:
    """A database with a table of pages, once on SQLite and once on PostgreSQL."""
    database = open_database(database_url)
    async with database.engine.begin() as connection:
        tables = [Base.metadata.tables[Page.__tablename__]]
        await connection.run_sync(Base.metadata.create_all, tables)
    return database


@pytest.fixture
def app(database: Database) -> FastAPI:
    """An application as their documentation has it."""
    app = FastAPI()
    Admin(app, database.engine).add_view(PageView)
    sessions = async_sessionmaker(database.engine, expire_on_commit=False)

    async def open_session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    given = Annotated[AsyncSession, Depends(open_session)]

    @app.get("/pages")
    async def titles(session: given) -> list[str]:
        return sorted(await session.scalars(select(Page.title)))

    @app.post("/pages")
    async def add(session: given) -> None:
        session.add(Page(title="api"))
        await session.commit()

    return app


async def add(database: Database) -> None:
    """Add a page in a unit."""
    async with UnitOfWork(database) as uow:
        uow.session.add(Page(title="bot"))


async def test_all_of_them_write_and_read_at_once(app: FastAPI, database: Database) -> None:
    """Requests, forms of the admin and units are all served, and every row is there."""
    units = [asyncio.create_task(add(database)) for _ in range(MANY)]
    answers = await asyncio.gather(
        *(call(app, "GET", "/pages") for _ in range(MANY)),
        *(call(app, "GET", "/admin/page/list") for _ in range(MANY)),
        *(call(app, "POST", "/pages") for _ in range(MANY)),
        *(call(app, "POST", "/admin/page/create", "title=form&save=Save") for _ in range(MANY)),
    )
    await asyncio.gather(*units)
    statuses = {status for status, _ in answers}
    assert statuses == {200, 302}
    _, said = await call(app, "GET", "/pages")
    assert [said.count(who) for who in ("api", "bot", "form")] == [MANY] * 3


async def test_the_admin_reads_while_a_unit_writes(app: FastAPI, database: Database) -> None:
    """A unit that has written and is open keeps nobody from looking."""
    await add(database)
    async with UnitOfWork(database) as uow:
        uow.session.add(Page(title="unfinished"))
        await uow.session.flush()
        status, said = await asyncio.create_task(call(app, "GET", "/admin/page/list"))
    assert status == 200
    assert "bot" in said
    assert "unfinished" not in said


async def test_the_admin_edits_and_deletes(app: FastAPI, database: Database) -> None:
    """Its forms, which read a row and then write it, work beside units."""
    await asyncio.gather(*(add(database) for _ in range(2)))
    assert (await call(app, "POST", "/admin/page/edit/1", "title=new&save=Save"))[0] == 302
    assert (await call(app, "DELETE", "/admin/page/delete?pks=2"))[0] == 200
    assert (await call(app, "GET", "/pages"))[1] == '["new"]'
