"""A service of FastStream, whose lifespan is that of the application: messages become units.

FastStream starts the application before it listens, and stops it when the messages at work are
answered. What is answered is committed. Core NATS forgets what nobody has answered: who asks asks
again, and an order that is known already is kept once. (Do not name such a file `faststream.py`:
it would import itself.)

    pip install "faststream[nats]"
    NATS_URL=nats://localhost:4222 DATABASE__URL=… python faststream_service.py
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faststream import Context, ContextRepo, FastStream
from faststream.nats import NatsBroker
from pydantic import BaseModel
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import Base, DatabasePlugin, UnitOfWorkFactory
from lifecycle import Application


class Delivery(Base):
    """What is to be delivered, under the key of who asked."""

    __tablename__ = "deliveries__delivery"

    key: Mapped[str] = mapped_column(primary_key=True)
    good: Mapped[str]


class Order(BaseModel):
    """A message."""

    key: str
    good: str


async def deliver(
    order: Order,
    uow_factory: UnitOfWorkFactory = Context(),  # noqa: B008 -- FastStream's way of asking for it
) -> str:
    """Keep an order, and answer when it is kept."""
    async with uow_factory() as uow:
        await uow.session.merge(Delivery(key=order.key, good=order.good))
    return f"{order.good} is on its way"


@asynccontextmanager
async def lifespan(context: ContextRepo) -> AsyncIterator[None]:
    """Run the application while the service runs."""
    async with Application([DatabasePlugin]) as app:
        context.set_global("uow_factory", app.services["db_manager:uow_factory"])
        yield


broker = NatsBroker(os.environ.get("NATS_URL", "nats://localhost:4222"))
broker.subscriber("orders")(deliver)
service = FastStream(broker, lifespan=lifespan)


if __name__ == "__main__":
    asyncio.run(service.run())
