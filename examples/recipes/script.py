"""A one-off script, or a job of cron, without aiogram and without plugins: an engine and its units.

It deletes old rows, some at a time, so that nobody waits for it; killed half way, it has deleted
what it said.

    DATABASE__URL=… python script.py 30
"""

import asyncio
import sys
from datetime import UTC, datetime, timedelta

from sqlalchemy import DateTime, delete, func, select
from sqlalchemy.orm import Mapped, mapped_column

from db_manager import (
    Base,
    DatabaseConfig,
    UnitOfWork,
    UnitOfWorkFactory,
    create_engine,
)

AT_ONCE = 500


class Visit(Base):
    """When somebody was here. A script beside a bot imports the models of the bot instead."""

    __tablename__ = "visits__visit"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


async def forget(days: int) -> None:
    """Delete the visits that are older than some days."""
    old = Visit.at < datetime.now(UTC) - timedelta(days=days)
    some = select(Visit.id).where(old).limit(AT_ONCE).scalar_subquery()

    async def delete_some(uow: UnitOfWork) -> int:
        deleted = await uow.session.scalars(
            delete(Visit).where(Visit.id.in_(some)).returning(Visit.id)
        )
        return len(deleted.all())

    engine = create_engine(DatabaseConfig())  # of the environment: DATABASE__URL and the like
    try:
        async with UnitOfWork(engine, read_only=True) as uow:
            number = await uow.session.scalar(select(func.count()).where(old))
        print(f"{number} visits are older than {days} days.")
        uow_factory = UnitOfWorkFactory(engine)
        while deleted := await uow_factory.run(delete_some):  # again after a deadlock and the like
            print(f"{deleted} deleted.", flush=True)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(forget(int(sys.argv[1])))
