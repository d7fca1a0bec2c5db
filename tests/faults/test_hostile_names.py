"""Names and texts from people who mean harm reach neither the DDL nor another line: S2."""

import io
import json
import random
import string
from collections.abc import Callable

from sqlalchemy import String, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Mapped, mapped_column
from support.accounting import accounted

from db_manager.base import TABLE_NAME, Base
from db_manager.database.open_unit import UnitState
from db_manager.errors import TableNameError
from db_manager.events import UnitRolledBack
from db_manager.unit.uow import UnitOfWork
from lifecycle.bus import EventBus
from observability import logs

Row = Callable[..., None]

EVIL = "\0\x1b\n\r\t\"';-- \\%\u2028\u202e\ud800\x85йé_A"
FINE = string.ascii_lowercase + string.digits + "_"


class Said(Base):
    """What somebody said."""

    __tablename__ = "hostile__said"

    id: Mapped[int] = mapped_column(primary_key=True)
    words: Mapped[str] = mapped_column(String(200))


def random_text(chance: random.Random, length: int) -> str:
    """Return a text with something evil in it."""
    return "".join(chance.choice(EVIL + FINE) for _ in range(length))


def test_no_hostile_name_becomes_a_table(full: bool, row: Row) -> None:
    """S2: a model whose table is not plainly named is refused; what is accepted is plain."""
    chance = random.Random(1)
    names = 10_000 if full else 1_000
    refused = 0
    for number in range(names):
        name = random_text(chance, chance.randint(1, 70))
        if chance.random() < 0.5:
            name = f"hostile{number}__{name}"
        if TABLE_NAME.match(name):
            assert set(name) <= set(FINE)
            assert len(name) <= 63
            continue
        try:
            type("Hostile", (Base,), {"__tablename__": name})
        except TableNameError:
            refused += 1
    assert refused > names // 2
    assert not any(set(table) - set(FINE) for table in Base.metadata.tables)
    row(
        "S2", load=f"{names} names of tables", result=f"{refused} refused, none with a quote mapped"
    )


async def test_hostile_texts_are_data(database_url: URL, full: bool, row: Row) -> None:
    """S2: a hostile text is stored as it is, or refused by a typed error; it never runs."""
    chance = random.Random(2)
    texts = [random_text(chance, chance.randint(1, 60)) for _ in range(1_000 if full else 100)]
    stored = 0
    async with accounted(database_url) as database:
        async with database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.tables[Said.__tablename__].create)
        for words in texts:
            unit = UnitOfWork(database)
            try:
                async with unit:
                    unit.session.add(Said(words=words))
            except (DBAPIError, UnicodeError):
                assert unit.state is UnitState.ROLLED_BACK
            else:
                stored += 1
                async with UnitOfWork(database) as uow:
                    newest = select(Said.words).order_by(Said.id.desc()).limit(1)
                    assert await uow.session.scalar(newest) == words
        async with UnitOfWork(database) as uow:
            assert await uow.session.scalar(text("SELECT count(*) FROM hostile__said")) == stored
    row(
        "S2",
        load=f"{len(texts)} texts into {database_url.get_backend_name()}",
        result=f"{stored} stored as they are, {len(texts) - stored} refused, 0 ran",
    )


def test_hostile_texts_are_one_line(full: bool, row: Row) -> None:
    """S2: whatever an error says, its log line is one line, for people and for machines."""
    chance = random.Random(3)
    texts = [random_text(chance, chance.randint(1, 60)) for _ in range(1_000 if full else 200)]
    for form in ("console", "json"):
        bus, stream = EventBus(), io.StringIO()
        with logs.attach(bus, format=form, stream=stream, level="debug", stdlib=False):
            for words in texts:
                bus.publish(UnitRolledBack(unit=1, cause="error", error=words))
        lines = stream.getvalue().splitlines()
        assert len(lines) == len(texts)
        assert not set("\0\x1b\r\u2028\u202e\x85") & set(stream.getvalue())
        if form == "json":
            assert all(json.loads(line)["event"] == "uow.rollback" for line in lines)
    row("S2", load=f"{len(texts)} texts in log lines", result="one line each, nothing obeyed")
