"""A MariaDB (or MySQL) server that is given: a database for each test on it."""

import contextlib
import itertools
import os
import time

import asyncmy
from asyncmy.errors import OperationalError
from sqlalchemy.engine import URL, make_url

ENVIRONMENT = "DB_MANAGER_TEST_MARIADB_URL"


def mariadb_admin() -> URL | None:
    """Return an administrator's URL of the server, or None when none was given."""
    given = os.environ.get(ENVIRONMENT)
    return make_url(given).set(drivername="mysql+asyncmy") if given else None


class MariaDatabases:
    """Makes an empty database for each test, and drops it.

    Args:
        url: An administrator's URL of the server.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._numbers = itertools.count(1)
        self._prefix = f"dbm_{os.getpid()}_{time.time_ns() % 10**9}"

    async def create(self) -> URL:
        """Return the URL of a new database."""
        name = f"{self._prefix}_{next(self._numbers)}"
        await self._execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return self._url.set(database=name)

    async def drop(self, url: URL) -> None:
        """Drop a database, after ending whoever is still connected to it.

        An open transaction's metadata lock would otherwise keep the DROP waiting.
        """
        rows = await self._execute(
            f"SELECT id FROM information_schema.processlist WHERE db = '{url.database}'"
        )
        for (number,) in rows:
            with contextlib.suppress(OperationalError):  # it ended meanwhile
                await self._execute(f"KILL {number}")
        await self._execute(f"DROP DATABASE IF EXISTS {url.database}")

    async def _execute(self, sql: str) -> list[tuple[int]]:
        connection = await asyncmy.connect(
            host=self._url.host,
            port=self._url.port or 3306,
            user=self._url.username,
            password=self._url.password or "",
        )
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(sql)
                return list(await cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()
