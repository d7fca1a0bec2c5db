"""`make foreign SQLALCHEMY=path AIOGRAM=path`: the tests of those projects, run on our parts.

Nothing is fetched: the paths lead to checkouts, or unpacked source distributions, of the versions
that are installed. Without a path a suite is not run.
"""

import argparse
import asyncio
from pathlib import Path

from foreign.differences import AIOGRAM, SQLALCHEMY, Difference
from foreign.suites import Suite, Verdict, compare, outdated
from support.postgres import Databases, postgres_url


def main() -> int:
    """Run the suites that are there.

    Returns:
        1 when a test has failed, or is listed as different and is not.
    """
    parser = argparse.ArgumentParser(prog="foreign", description=__doc__)
    parser.add_argument("--sqlalchemy", type=Path, help="a checkout of SQLAlchemy")
    parser.add_argument("--aiogram", type=Path, help="a checkout of aiogram")
    paths = parser.parse_args()
    if not (paths.sqlalchemy or paths.aiogram):
        parser.error("name a checkout: make foreign SQLALCHEMY=path AIOGRAM=path")
    wrong = 0
    if paths.sqlalchemy:
        wrong += _report(_sqlalchemy(paths.sqlalchemy), SQLALCHEMY)
    if paths.aiogram:
        suite = Suite(
            name="aiogram",
            checkout=paths.aiogram,
            plugin="foreign.aiogram_attached",
            arguments=("-o", "asyncio_default_fixture_loop_scope=function", "-W", "default"),
        )
        wrong += _report({suite.name: _verdict(suite, AIOGRAM)}, AIOGRAM)
    return 1 if wrong else 0


def _sqlalchemy(checkout: Path) -> dict[str, Verdict]:
    """Run its asyncio tests on SQLite and on a PostgreSQL database of their own."""
    verdicts = {}
    with postgres_url() as admin:
        databases = Databases(admin)
        url = asyncio.run(databases.create())
        try:
            for name, database in (
                ("aiosqlite", "sqlite+aiosqlite:///:memory:"),
                ("asyncpg", url.render_as_string(hide_password=False)),
            ):
                suite = Suite(
                    name=f"SQLAlchemy, {name}",
                    checkout=checkout,
                    plugin="foreign.sqlalchemy_units",
                    arguments=("--dburi", database, "-p", "no:asyncio", "test/ext/asyncio"),
                )
                verdicts[suite.name] = _verdict(suite, SQLALCHEMY)
        finally:
            asyncio.run(databases.drop(url))
    return verdicts


def _verdict(suite: Suite, differences: tuple[Difference, ...]) -> Verdict:
    return compare(suite.run(with_us=False), suite.run(with_us=True), differences)


def _report(verdicts: dict[str, Verdict], differences: tuple[Difference, ...]) -> int:
    """Print what came out, and return how much of it is wrong."""
    wrong = 0
    for name, verdict in verdicts.items():
        refused = sum(map(len, verdict.refused.values()))
        print(
            f"{name}: {len(verdict.passed)} passed, {refused} refused on purpose, "
            f"{len(verdict.failed)} failed ({len(verdict.not_counted)} do not run without us)"
        )
        for reason, tests in sorted(verdict.refused.items()):
            print(f"  {len(tests):3} refused: {reason}")
        for test, raised in sorted(verdict.failed.items()):
            print(f"  FAILED {test}\n    {' '.join(raised.split())[:200]}")
        wrong += len(verdict.failed)
    for test in outdated(list(verdicts.values()), differences):
        print(f"  listed as different, and is not: {test}")
        wrong += 1
    return wrong


if __name__ == "__main__":
    raise SystemExit(main())
