"""Statements in transactions of their own: each crosses into SQLAlchemy's world once."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import Connection, TextClause
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from db_manager.dialects.known import dialect_of
from db_manager.engine.reaching import section_of

T = TypeVar("T")


class AtOnce:
    """Runs transactions that are a statement or two.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.sync_engine
        # A server commits a lone statement by itself: one round trip instead of three. PgBouncer
        # would prepare it on one connection and look for it on another; a transaction has one.
        section = section_of(engine)
        has_one = section is None or not section.pgbouncer
        if dialect_of(engine.dialect).has_server and has_one:
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._lone = engine.sync_engine

    async def run(self, work: Callable[[Connection], T], *, is_lone: bool) -> T:
        """Return what *work* returns; what it executes is a transaction.

        Args:
            work: Is given a connection.
            is_lone: It is one statement; where it is more, each is kept for itself.
        """

        def whole() -> T:
            with (self._lone if is_lone else self._engine).begin() as connection:
                return work(connection)

        return await greenlet_spawn(whole)

    async def rows(self, statement: TextClause, parameters: Mapping[str, Any]) -> list[Any]:
        """Return the rows of a statement that is a transaction."""
        return await self.run(lambda each: list(each.execute(statement, parameters)), is_lone=True)

    async def count(self, statement: TextClause, parameters: Mapping[str, Any]) -> int:
        """Return how many rows a statement that is a transaction has changed."""
        return await self.run(
            lambda each: each.execute(statement, parameters).rowcount, is_lone=True
        )
