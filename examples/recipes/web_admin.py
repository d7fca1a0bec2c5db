"""FastAPI and sqladmin beside the bot: one process, one engine, one stop.

The web server is a plugin. It requires the database, so it starts after it, and its requests are
answered before the database closes. The admin has no login here: give `Admin` an
`authentication_backend` before anybody else than you can reach it.

    BOT_TOKEN=… python web_admin.py    # http://127.0.0.1:8000/admin and /docs
"""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import uvicorn
from aiogram import Bot, Dispatcher
from aiogram.types import Message
from fastapi import APIRouter, Depends, FastAPI, Request
from sqladmin import Admin, ModelView
from sqlalchemy import Text, select
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWorkFactory
from lifecycle import Application, Plugin, PluginContext
from lifecycle.bot import run_polling


class Dish(Base):
    """What the kitchen has today."""

    __tablename__ = "menu__dish"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)


class DishView(ModelView, model=Dish):
    """Dishes in the admin."""

    column_list = ("id", "name")


def get_factory(request: Request) -> UnitOfWorkFactory:
    """Return the factory of the bot; an endpoint opens its unit as a handler does."""
    factory: UnitOfWorkFactory = request.app.state.uow_factory
    return factory


routes = APIRouter()


@routes.post("/dishes")
async def add(name: str, uow_factory: Annotated[UnitOfWorkFactory, Depends(get_factory)]) -> int:
    """Add a dish; it is committed when its number is answered."""
    async with uow_factory() as uow:
        dish = Dish(name=name)
        uow.session.add(dish)
    return dish.id


async def menu(message: Message, uow_factory: UnitOfWorkFactory) -> None:
    """Say what there is, whoever wrote it."""
    async with uow_factory(read_only=True) as uow:
        names = (await uow.session.scalars(select(Dish.name).order_by(Dish.id))).all()
    await message.answer("\n".join(names) or "Nothing today.")


class Server(uvicorn.Server):
    """Leaves the signals to the bot, which stops the plugins."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Change nothing."""
        yield


class WebPlugin(Plugin):
    """Serves the API and the admin."""

    name = "web"
    requires = ("db_manager",)

    async def start(self, context: PluginContext) -> None:
        """Listen; an address that is taken fails the start."""
        api = FastAPI()
        api.state.uow_factory = context.services["db_manager:uow_factory"]
        api.include_router(routes)
        Admin(api, context.services["db_manager:engine"]).add_view(DishView)
        address = socket.create_server(("127.0.0.1", int(os.environ.get("PORT", "8000"))))
        self.server = Server(uvicorn.Config(api, log_config=None))
        self.serving = context.spawn(self.server.serve([address]), "uvicorn")

    async def stop(self, context: PluginContext) -> None:
        """Take no more requests, and wait for those that are being answered."""
        self.server.should_exit = True
        await self.serving


async def main() -> None:
    """Poll and serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    dispatcher = Dispatcher()
    dispatcher.message.register(menu)
    app = Application([DatabasePlugin, WebPlugin])
    await run_polling(app, dispatcher, Bot(os.environ["BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
