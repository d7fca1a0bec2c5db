"""How SQLite finds the rows that statements of delivery are given as JSON: by their keys."""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, TextClause, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from db_manager.base import Base
from db_manager.delivery import DeliveryPlugin
from db_manager.delivery.broadcast.broadcast_sql import broadcast_statements
from db_manager.delivery.inbox.inbox_sql import inbox_statements
from db_manager.delivery.table.outbox_sql import statements
from db_manager.dialects.known import dialect_of

TABLES = [
    table for name, table in Base.metadata.tables.items() if name.startswith(DeliveryPlugin.name)
]
#: Statements that change two tables at once, as no SQLite does.
ELSEWHERE = {"end_and_claim", "done_and_write_first"}
#: A line of a plan that goes through what was given, or through a table of ours.
GIVEN = "SCAN json_each"
#: As SQLite calls tables: by their own names or by those in the statement.
OURS = re.compile(
    r"(SCAN|SEARCH) (delivery__\w+|recipient|outbox|head|first|owned|waiting|earlier)"
)


def plan(connection: Connection, statement: TextClause) -> list[list[str]]:
    """Return the loops of each part of a statement, the outermost of a part first."""
    given = dict.fromkeys(statement._bindparams)
    loops: dict[int, list[str]] = defaultdict(list)
    for row in connection.execute(text(f"EXPLAIN QUERY PLAN {statement.text}"), given):
        loops[row.parent].append(row.detail)
    return list(loops.values())


async def explained(url: URL, look: Callable[[Connection], list[str]]) -> list[str]:
    """Look at plans in a database with the tables of delivery."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all, TABLES)
        found = await connection.run_sync(look)
    await engine.dispose()
    return found


async def test_what_is_given_is_read_once(sqlite_database: URL) -> None:
    """No statement reads its JSON again for each row of a table.

    A turn of a broadcast did so for each of its chats, and took three seconds for 30,000.
    """

    def look(connection: Connection) -> list[str]:
        dialect = dialect_of(connection.dialect)
        wrong: list[str] = []
        known = {
            "outbox": statements(dialect, has_members=False),
            "inbox": inbox_statements(dialect, has_members=False),
            "broadcast": broadcast_statements(dialect),
        }
        for kind, named in known.items():
            for name in named.keys() - ELSEWHERE:
                wrong += [
                    f"{kind} {name}: {outer}, {inner}"
                    for loops in plan(connection, named[name])
                    for outer, inner in itertools.combinations(loops, 2)
                    if OURS.match(outer) and inner.startswith(GIVEN)
                ]
        return wrong

    assert await explained(sqlite_database, look) == []


@pytest.mark.parametrize("name", ["settle", "move"])
async def test_a_chat_is_found_by_its_key(sqlite_database: URL, name: str) -> None:
    """A turn of a broadcast looks at the chats of this turn, and at no others."""

    def look(connection: Connection) -> list[str]:
        statement = broadcast_statements(dialect_of(connection.dialect))[name]
        return [line for loops in plan(connection, statement) for line in loops]

    [line] = [line for line in await explained(sqlite_database, look) if OURS.match(line)]
    assert "(broadcast_id=? AND chat_id=?)" in line


async def test_those_on_their_way_are_found_without_the_others(sqlite_database: URL) -> None:
    """Also by the index that has these chats only."""

    def look(connection: Connection) -> list[str]:
        statement = broadcast_statements(dialect_of(connection.dialect))["on_its_way"]
        return plan(connection, statement)[0]

    first, _ = await explained(sqlite_database, look)
    assert first.endswith("USING INDEX ix_delivery__recipient_on_its_way")
