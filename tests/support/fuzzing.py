"""Units of random contents that end in random ways, and whether each told the truth of itself."""

import asyncio
import contextlib
import itertools
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sqlalchemy import ForeignKey, event, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool
from support.accounting import connected

from db_manager.base import Base
from db_manager.database.database import Database
from db_manager.database.open_unit import UnitState
from db_manager.unit.uow import UnitOfWork

#: How many units run at a time, where nobody says another number.
TASKS: Final = 16
#: After so many units what they said is compared with what is there.
BATCH: Final = 400


class Part(Base):
    """A row of a unit."""

    __tablename__ = "fuzz_test__part"

    unit: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    part: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Orphan(Base):
    """A row whose parent is asked for at COMMIT."""

    __tablename__ = "fuzz_test__orphan"

    unit: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    parent: Mapped[int] = mapped_column(
        ForeignKey("fuzz_test__orphan.unit", deferrable=True, initially="DEFERRED")
    )


class Planned(Exception):  # noqa: N818 -- no error: the plan of a block
    """What a block raises when it was planned to fail."""


class Block:
    """One unit with what it was told to write, and how it ended.

    Args:
        number: Its key.
        unit: The unit.
        chance: Where its choices come from.
    """

    def __init__(self, number: int, unit: UnitOfWork, chance: random.Random) -> None:
        self.number = number
        self.unit = unit
        self.chance = chance
        #: The rows that are there if the unit is committed.
        self.expected: set[int] = set()
        self.actions: list[str] = []
        self.error: BaseException | None = None
        #: True when something was done to it that may keep it from its COMMIT.
        self.disturbed = False
        self._parts = itertools.count(1)

    async def run(self) -> None:
        """Do some of what blocks do."""
        async with self.unit:
            for _ in range(self.chance.randint(0, 3)):
                await self._act(*self.chance.choices(_WRITES, _WRITE_WEIGHTS))
            if self.chance.random() < 0.25:
                self.disturbed = True
                await self._act(*self.chance.choices(_FAULTS, _FAULT_WEIGHTS))
                for _ in range(self.chance.randint(0, 1)):
                    await self._act(self.chance.choice(_WRITES))

    async def _act(self, action: "Action") -> None:
        self.actions.append(action.__name__)
        await action(self)

    def new_part(self) -> dict[str, int]:
        """Return the values of a row that is written next."""
        part = next(self._parts)
        self.expected.add(part)
        return {"unit": self.number, "part": part}


Action = Callable[[Block], Awaitable[None]]
_INSERT: Final = text("INSERT INTO fuzz_test__part (unit, part) VALUES (:unit, :part)")


# -- what blocks write ---------------------------------------------------------------------------


async def by_object(block: Block) -> None:
    """Add an object; the end flushes it."""
    block.unit.session.add(Part(**block.new_part()))


async def by_flush(block: Block) -> None:
    """Add an object and flush it."""
    block.unit.session.add(Part(**block.new_part()))
    await block.unit.session.flush()


async def by_session(block: Block) -> None:
    """Write a Core statement through the session."""
    await block.unit.session.execute(_INSERT, block.new_part())


async def by_core(block: Block) -> None:
    """Write on the Core lane."""
    await block.unit.connection.execute(_INSERT, block.new_part())


async def by_driver(block: Block) -> None:
    """Write past SQLAlchemy."""
    row = block.new_part()
    await say(
        block, f"INSERT INTO fuzz_test__part (unit, part) VALUES ({row['unit']}, {row['part']})"
    )


async def by_adapter(block: Block) -> None:
    """Write on SQLAlchemy's cursor, past its books."""
    row = block.new_part()

    def write(connection: Any) -> None:
        cursor = connection.connection.cursor()
        cursor.execute(
            f"INSERT INTO fuzz_test__part (unit, part) VALUES ({row['unit']}, {row['part']})"
        )
        cursor.close()

    await block.unit.connection.run_sync(write)


async def in_a_part(block: Block) -> None:
    """Write in a savepoint."""
    async with block.unit.savepoint():
        await by_core(block)


async def in_an_undone_part(block: Block) -> None:
    """Write in a savepoint that fails."""
    before = set(block.expected)
    with contextlib.suppress(Planned):
        async with block.unit.savepoint():
            await block.chance.choice([by_flush, by_core, by_driver])(block)
            raise Planned
    block.expected = before


async def by_listener(block: Block) -> None:
    """Let a listener of the end add a row."""
    name = block.chance.choice(["before_commit", "after_flush", "after_flush_postexec"])
    once = [block.new_part()]

    def add(session: Session, *_: object) -> None:
        if once:
            session.add(Part(**once.pop()))

    event.listen(block.unit.session.sync_session, name, add)
    await by_object(block)
    for _ in range(0 if name == "before_commit" else 2):  # in no savepoint that may be undone
        await block.unit.session.flush()


async def read(block: Block) -> None:
    """Read."""
    await block.unit.session.scalar(text("SELECT count(*) FROM fuzz_test__orphan"))


_WRITES: Final[list[Action]] = [
    by_object,
    by_flush,
    by_session,
    by_core,
    by_driver,
    by_adapter,
    in_a_part,
    in_an_undone_part,
    by_listener,
    read,
]
_WRITE_WEIGHTS: Final = [3, 2, 4, 4, 3, 1, 2, 2, 2, 2]


# -- what goes wrong -----------------------------------------------------------------------------


async def raises(block: Block) -> None:
    """Let an error out of the block."""
    del block
    raise Planned


async def rolls_back(block: Block) -> None:
    """End the unit by its own method."""
    await block.unit.rollback()


async def swallows(block: Block) -> None:
    """Swallow the error of a statement."""
    await by_core(block)
    with contextlib.suppress(Exception):
        await block.unit.connection.execute(
            _INSERT, {"unit": block.number, "part": max(block.expected)}
        )


async def collides_at_the_end(block: Block) -> None:
    """Let a listener of the end add a row that is there already."""
    await by_core(block)
    twin = max(block.expected)

    def add(session: Session) -> None:
        session.add(Part(unit=block.number, part=twin))

    event.listen(block.unit.session.sync_session, "before_commit", add)


async def listener_raises(block: Block) -> None:
    """Let a listener raise, before COMMIT or after it."""
    error = block.chance.choice(
        [ConnectionError("planned"), TimeoutError("planned"), asyncio.CancelledError("planned")]
    )

    def fail(*_: object) -> None:
        raise error

    name = block.chance.choice(["before_commit", "after_commit", "before_flush", "after_flush"])
    event.listen(block.unit.session.sync_session, name, fail)


async def orphan(block: Block) -> None:
    """Write what is refused at COMMIT, where constraints can wait for it."""
    if block.unit.engine.dialect.name not in {"mysql", "mariadb"}:
        await block.unit.connection.execute(
            text("INSERT INTO fuzz_test__orphan (unit, parent) VALUES (:unit, -1)"),
            {"unit": block.number},
        )


async def ends_by_hand(block: Block) -> None:
    """Say COMMIT or ROLLBACK behind the back of the unit, and often go on as if nothing were."""
    word = block.chance.choice(["COMMIT", "ROLLBACK"])
    way = block.chance.randrange(6)
    connection = block.unit.connection
    ignored = (Exception,) if block.chance.random() < 0.7 else ()
    with contextlib.suppress(*ignored):
        if way == 0:
            await say(block, word)
        elif way == 1:
            await block.unit.session.execute(text(word))
        elif way == 2:
            await connection.execute(text(f"/* by hand */ {word}"))
        elif way == 3:
            method = word.lower()
            await connection.run_sync(lambda c: getattr(c.connection, method)())
        elif way == 4:
            method = f"do_{word.lower()}"
            await connection.run_sync(lambda c: getattr(c.dialect, method)(c.connection))
        else:
            await connection.run_sync(lambda c: c.invalidate())


async def loses_its_line(block: Block) -> None:
    """Close the driver's connection, or let the server do so."""
    if block.unit.engine.dialect.name == "postgresql":
        with contextlib.suppress(Exception):
            await block.unit.connection.execute(
                text("SELECT pg_terminate_backend(pg_backend_pid())")
            )
        return
    closing = (await block.unit.driver()).close()
    if closing is not None:
        await closing


_FAULTS: Final[list[Action]] = [
    raises,
    rolls_back,
    swallows,
    collides_at_the_end,
    listener_raises,
    orphan,
    ends_by_hand,
    loses_its_line,
]
_FAULT_WEIGHTS: Final = [4, 3, 4, 4, 4, 3, 4, 1]  # a new connection costs more than a unit


async def say(block: Block, sql: str) -> None:
    """Let the driver execute *sql*, whichever driver it is."""
    driver: Any = await block.unit.driver()
    if hasattr(driver, "is_in_transaction") or hasattr(driver, "pgconn"):
        await driver.execute(sql)
    elif hasattr(driver, "server_status"):
        async with driver.cursor() as cursor:
            await cursor.execute(sql)
    else:
        await (await driver.execute(sql)).close()


# -- many of them --------------------------------------------------------------------------------


class Fuzz:
    """Runs blocks by the thousand and compares what their units said with what is there.

    Args:
        database: What the units use.
        seed: Where all choices come from.
        tasks: How many units run at a time.
        harmed: True when somebody ends their connections meanwhile, so that any may fail.
    """

    def __init__(
        self, database: Database, seed: int, *, tasks: int = TASKS, harmed: bool = False
    ) -> None:
        self.states: Counter[UnitState] = Counter()
        self.lies: list[str] = []
        self._database = database
        #: Sees the rows past everything under test.
        self._witness = create_async_engine(database.engine.url, poolclass=NullPool)
        self._seed = seed
        self._tasks = tasks
        self._harmed = harmed
        self._chance = random.Random(seed)
        self._numbers = itertools.count(1)
        name = database.engine.dialect.name
        self._levels = [None, None, None, "SERIALIZABLE"]
        self._levels += {"sqlite": ["READ UNCOMMITTED"]}.get(name, ["REPEATABLE READ"])
        self._models: list[type[Base]] = [Part]
        self._models += [] if name in {"mysql", "mariadb"} else [Orphan]

    async def make_tables(self) -> None:
        """Make the tables; without the one for constraints that wait, where none can."""
        tables = [Base.metadata.tables[str(model.__tablename__)] for model in self._models]
        async with self._database.engine.begin() as connection:
            await connection.run_sync(lambda c: Base.metadata.create_all(c, tables))
            if Orphan not in self._models:
                await connection.execute(text("CREATE TABLE fuzz_test__orphan (unit INT)"))

    async def run(self, units: int) -> None:
        """Run *units* units and judge them.

        Args:
            units: How many.
        """
        # What fails is planned: half a million tracebacks would say nothing, and pytest keeps them,
        # which takes most of the time.
        before = logging.root.manager.disable
        logging.disable()
        try:
            await self._run(units)
        finally:
            logging.disable(before)

    async def _run(self, units: int) -> None:
        done = 0
        while done < units:
            size = min(max(BATCH, self._tasks), units - done)
            blocks: list[Block] = []
            rest = iter(range(size))
            await asyncio.gather(*(self._work(rest, blocks) for _ in range(self._tasks)))
            lost = self._database.pool_levels()["used"]
            if lost:
                self.lies.append(f"{lost} connections of seed {self._seed} did not come back")
            await self._judge(blocks)
            done += size

    async def _work(self, rest: Any, blocks: list[Block]) -> None:
        for _ in rest:
            block = self._block()
            block.disturbed = self._harmed
            blocks.append(block)
            task = asyncio.create_task(block.run())
            if self._chance.random() < 0.2:
                block.disturbed = True
                self._cancel_soon(task)
            try:
                await task
            except asyncio.CancelledError as error:
                block.error = error
            except Exception as error:  # noqa: BLE001 -- the state is what is judged
                block.error = error

    def _block(self) -> Block:
        unit = UnitOfWork(
            self._database,
            isolation_level=self._chance.choice(self._levels),
        )
        number = next(self._numbers)
        return Block(number, unit, random.Random(f"{self._seed} {number}"))

    def _cancel_soon(self, task: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self._chance.choice([1, 1, 2])):
            wait = self._chance.expovariate(500 * TASKS / self._tasks)  # also when it has its turn
            loop.call_later(wait, task.cancel)

    async def _judge(self, blocks: list[Block]) -> None:
        async with self._witness.begin() as connection:
            rows = (await connection.execute(text("SELECT unit, part FROM fuzz_test__part"))).all()
            for table in ("fuzz_test__part", "fuzz_test__orphan"):
                await connection.execute(text(f"DELETE FROM {table}"))
        there: dict[int, set[int]] = {}
        for unit, part in rows:
            there.setdefault(unit, set()).add(part)
        for block in blocks:
            self.states[block.unit.state] += 1
            if lie := judge(block, there.get(block.number, set())):
                self.lies.append(
                    f"{lie}: unit {block.number} of seed {self._seed} is {block.unit.state} "
                    f"with {block.error!r}; {block.actions}; "
                    f"expected {block.expected}, there {there.get(block.number, set())}"
                )


def judge(block: Block, there: set[int]) -> str:
    """Return how what a unit said of itself differs from what is there; empty when it does not.

    Args:
        block: The block of the unit.
        there: The rows of it that are there.
    """
    state, error = block.unit.state, block.error
    if state is UnitState.COMMITTED:
        return "" if there == block.expected else "committed, and other rows are there"
    if state is UnitState.ROLLED_BACK:
        return "rolled back, and rows are there" if there else _unasked(block)
    if state is UnitState.OUTCOME_UNKNOWN:
        told = f"{error!r} {getattr(error, '__notes__', '')}"
        words = ("OutcomeUnknown", "TransactionEnded", "ended the transaction")
        return "" if any(word in told for word in words) else "unknown, and nobody says why"
    if state is UnitState.NEW:
        # Cancelled before it was entered, which happens where due timers go before new tasks.
        begun = there or block.actions or not isinstance(error, asyncio.CancelledError)
        return "begun, and it does not know it" if begun or not block.disturbed else ""
    return "not over"


def _unasked(block: Block) -> str:
    if block.error is None and "rolls_back" not in block.actions:
        return "rolled back in silence"
    code = getattr(getattr(block.error, "orig", None), "sqlstate", "")
    if not block.disturbed and code not in {"40001", "40P01"}:
        return "rolled back, and nobody had disturbed it"
    return ""


async def kill_backends(server: URL, name: str, chance: random.Random, gone: asyncio.Event) -> int:
    """Terminate a backend every few milliseconds.

    Args:
        server: Where the server is.
        name: The application's name of the connections.
        chance: Chooses.
        gone: Set when it shall end.

    Returns:
        How many it terminated.
    """
    killed = 0
    async with connected(server) as admin:
        while not gone.is_set():
            await asyncio.sleep(chance.expovariate(100))
            told = await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = $1 ORDER BY random() LIMIT 1",
                name,
            )
            killed += told == "SELECT 1"
    return killed
