"""`make soak`: random units for half an hour; what the process holds stays, and no unit lies."""

import argparse
import asyncio
import logging
import tempfile
import time
from pathlib import Path

from soak.flatness import judge
from soak.report import FIGURES, figures, section, write
from soak.soaking import Soak, opened
from sqlalchemy.engine import URL
from support.mariadb import MariaDatabases, mariadb_admin
from support.postgres import Databases, PostgresServer

#: How many units of a burst run at a time.
TASKS = 1_000


def main() -> int:
    """Soak, print what came out, and keep the figures of a run that went well.

    Returns:
        1 when something grew, or a unit lied.
    """
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--write", type=Path, default=FIGURES, help="where the figures are kept")
    asked = parser.parse_args()
    logging.disable()  # the blocks raise by the thousand, as they were told to
    with PostgresServer() as server, tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_soak(server, Path(folder), asked))


async def _soak(server: PostgresServer, folder: Path, asked: argparse.Namespace) -> int:
    seed = time.time_ns() % 10**9
    print(f"seed {seed}, {asked.minutes:g} minutes")
    made = Databases(server.url())
    urls = {
        "asyncpg": await made.create(),
        "psycopg": (await made.create()).set(drivername="postgresql+psycopg"),
        "aiosqlite": URL.create("sqlite+aiosqlite", database=str(folder / "bot.sqlite3")),
    }
    admin = mariadb_admin()
    given = MariaDatabases(admin) if admin else None
    if given:
        urls["asyncmy"] = await given.create()
    try:
        async with opened(urls) as databases:
            soak = Soak(databases, server, seed=seed, tasks=asked.tasks)
            await soak.run(seconds=asked.minutes * 60)
    finally:
        if given:
            await given.drop(urls["asyncmy"])
    return _report(soak, asked)


def _report(soak: Soak, asked: argparse.Namespace) -> int:
    found = figures(soak, minutes=asked.minutes, tasks=asked.tasks)
    wrong = judge(soak.samples) + soak.lies
    if wrong:
        print(*wrong, "There are more of:", *soak.grown, sep="\n")
        print("Memory by tenths:", *found["memory by tenths"])
        return 1
    write(found, asked.write)
    print(*section(asked.write), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
