"""States and data of conversations: rows of the unit, beside aiogram's other storages."""

import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Final

from aiogram.fsm.context import FSMContext
from aiogram.fsm.storage.base import BaseStorage, DefaultKeyBuilder, StorageKey
from aiogram.fsm.storage.memory import MemoryStorage

from benchmarks import ours
from benchmarks.replies import databases
from benchmarks.report import Scale, Section
from benchmarks.rounds import Clock, Sample, median, ratio
from benchmarks.statements import CORE_PARTS, INSERT
from benchmarks.units import compare, modes
from db_manager import UnitOfWorkFactory
from db_manager.base import Base
from db_manager.delivery import SqlStorage

NAME = "conversing"

#: Names a Redis to compare with; without it there are no such rows.
ENVIRONMENT: Final = "DB_MANAGER_BENCH_REDIS_URL"
MEMORY, REDIS, OURS = "MemoryStorage", "RedisStorage", "SqlStorage"
_SYSTEMS: Final = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
_PEOPLE: Final = 50
_CLOCKS: Final[tuple[Clock, ...]] = ("wall", "cpu")
_TEXT: Final = (
    "A step of a form: a unit with one INSERT, and in its block `state.set_state` and "
    "`state.update_data`. With aiogram's own storages the step is kept although the unit may be "
    "rolled back; with ours it is a part of the unit. A read is `get_state`, which aiogram asks "
    f"for before each update. Redis is the one that {ENVIRONMENT} names. "
)

Storages = dict[str, BaseStorage]


async def measure(scale: Scale) -> Section:
    """Measure both databases, each beside the other storages."""
    tables = []
    facts: dict[str, float] = {}
    for setting, system in _SYSTEMS.items():
        async with AsyncExitStack() as stack:
            [url] = await stack.enter_async_context(databases(setting, scale, 1))
            units = UnitOfWorkFactory(ours.open_database(stack, url))
            async with units.engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
            storages = _storages(stack, units)
            for what, make in (("step", _step), ("state read", _read)):
                cases = {name: make(units, each) for name, each in storages.items()}
                results = await modes(cases, scale)
                tables.append(compare(f"{what}, {system}", results, MEMORY))
                facts |= _facts(f"{setting} {what}", results)
    return Section("Conversations", f"{_TEXT}{scale.note}", tables, facts=facts)


def _storages(stack: AsyncExitStack, units: UnitOfWorkFactory) -> Storages:
    found: Storages = {MEMORY: MemoryStorage(), OURS: SqlStorage(units)}
    if url := os.environ.get(ENVIRONMENT):
        from aiogram.fsm.storage.redis import RedisStorage  # noqa: PLC0415 -- of the group `bench`

        keys = DefaultKeyBuilder(prefix=f"db_manager_bench_{os.getpid()}")
        # They are gone by themselves.
        redis = RedisStorage.from_url(url, key_builder=keys, state_ttl=600, data_ttl=600)
        stack.push_async_callback(redis.close)
        found[REDIS] = redis
    return found


def _step(units: UnitOfWorkFactory, storage: BaseStorage) -> Callable[[], Awaitable[object]]:
    contexts, write = _contexts(storage), CORE_PARTS[INSERT]

    async def step() -> None:
        number, state = next(contexts)
        async with units() as uow:
            await write(uow.session)
            await state.set_state("Form:age")
            await state.update_data(name=number)

    return step


def _read(_: UnitOfWorkFactory, storage: BaseStorage) -> Callable[[], Awaitable[object]]:
    contexts = _contexts(storage)

    async def read() -> None:
        await next(contexts)[1].get_state()

    return read


def _contexts(storage: BaseStorage) -> Iterator[tuple[int, FSMContext]]:
    """Yield a number and a person's context, for ever."""
    people = itertools.cycle(range(1, _PEOPLE + 1))
    made = {each: FSMContext(storage, StorageKey(1, each, each)) for each in range(1, _PEOPLE + 1)}
    return ((number, made[number]) for number in people)


def _facts(what: str, results: dict[str, dict[str, list[Sample]]]) -> dict[str, float]:
    facts: dict[str, float] = {}
    for mode, samples in results.items():
        if REDIS in samples:
            for clock in _CLOCKS:
                facts[f"fsm {what} | {mode} {clock}"] = ratio(samples[OURS], samples[REDIS], clock)
            more = median(samples[OURS], "wall") - median(samples[REDIS], "wall")
            facts[f"fsm {what} | {mode} ms"] = more / 1000
    return facts
