"""A bot behind PgBouncer in transaction mode: many units on few connections to PostgreSQL.

Each transaction may get another connection to the server, so nothing may outlive one: prepared
statements, settings of a session. `pgbouncer = true` does without them.

    DATABASE__URL=postgresql+asyncpg://bot:…@localhost:6432/bot BOT_TOKEN=… python pgbouncer.py

PgBouncer: `pool_mode = transaction`; `default_pool_size` connections to the server; a
`max_client_conn` with room for the `pool_size` of each process; a `query_wait_timeout` of 10 s or
so, after which a unit that got no connection fails. It passes no timeouts on, so the role has them:

    ALTER ROLE bot SET statement_timeout = '15s';
    ALTER ROLE bot SET lock_timeout = '5s';
    ALTER ROLE bot SET idle_in_transaction_session_timeout = '30s';

A host that is not this one is asked for TLS, and verified: `tls = "disable"` in a network of your
own. `db-manager backup` goes around: `DATABASE__PGBOUNCER=false DATABASE__PORT=5432`.
"""

import asyncio
import logging
import os

from aiogram import Bot, Dispatcher
from aiogram.types import Message
from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWorkFactory
from lifecycle import Application
from lifecycle.bot import run_polling

CONFIG = {
    "database": {
        "pgbouncer": True,
        "pool_size": 50,  # connections to PgBouncer: they are cheap, and most of them wait there
    }
}


class Line(Base):
    """What somebody said."""

    __tablename__ = "log__line"

    id: Mapped[int] = mapped_column(primary_key=True)
    chat_id: Mapped[int] = mapped_column(BigInteger)
    text: Mapped[str]


async def keep(message: Message, uow_factory: UnitOfWorkFactory) -> None:
    """Write a line, and read it again in the same transaction."""
    async with uow_factory() as uow:
        line = Line(chat_id=message.chat.id, text=message.text or "")
        uow.session.add(line)
        await uow.session.flush()
        await uow.session.refresh(line)
    await message.answer(f"Line {line.id}: {line.text}")


def make_dispatcher() -> Dispatcher:
    """Return a dispatcher with the handler."""
    dispatcher = Dispatcher()
    dispatcher.message.register(keep)
    return dispatcher


async def main() -> None:
    """Poll until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    app = Application([DatabasePlugin], config=CONFIG)
    await run_polling(app, make_dispatcher(), Bot(os.environ["BOT_TOKEN"]))


if __name__ == "__main__":
    asyncio.run(main())
