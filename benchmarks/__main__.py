"""Measures everything and writes docs/performance.md with its plots: `make bench`.

python -m benchmarks [--quick] [--print] [--only NAME ...] [--urls URL]
"""

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.engine import URL

from benchmarks import goals, server
from benchmarks.job import run_apart
from benchmarks.report import Scale, Section, section_text, write

DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class Job:
    """One process.

    Args:
        module: What it runs.
        setting: Which setting of it.
        loop: Under which event loop.
    """

    module: str
    setting: str = ""
    loop: str = "asyncio"


QUICK = Scale(rounds=2, units=20, quick=True)

#: In the order of reading.
JOBS = (
    Job("units", "asyncpg"),
    Job("units", "uvloop", "uvloop"),
    Job("units", "durable"),
    Job("units", "psycopg"),
    Job("units", "sqlite"),
    Job("crossings"),
    Job("effort"),
    Job("budget"),
    Job("contention"),
    Job("prices"),
    Job("levers"),
    Job("growth"),
    Job("waiting"),
    Job("footprint"),
    Job("migrating"),
    Job("bot"),
    Job("replies", "postgresql"),
    Job("replies", "sqlite"),
    Job("keeping"),
    Job("broadcasting"),
    Job("conversing"),
    Job("bus"),
    Job("machines"),
    Job("plugins"),
)


def sections(options: argparse.Namespace) -> Iterator[Section]:
    """Yield the section of each job that is asked for."""
    scale = QUICK if options.quick else Scale()
    scale = replace(
        scale, rounds=options.rounds or scale.rounds, units=options.units or scale.units
    )
    jobs = [job for job in JOBS if not options.only or job.module in options.only]
    with server.fast_server(options.urls) as (fast, note):

        def run(job: Job) -> Section:
            began = time.perf_counter()
            mine = replace(scale, loop=job.loop, setting=job.setting)
            if job.setting == "durable":
                with server.durable_server() as durable:
                    section = run_apart(job.module, _on(mine, durable, server.DURABLE_TEXT))
            else:
                section = run_apart(job.module, _on(mine, fast, note))
            seconds = time.perf_counter() - began
            print(f"{job.module} {job.setting}: {seconds:.0f} s", file=sys.stderr)
            return section

        # Two at a time disturb each other: only where numbers do not matter.
        with ThreadPoolExecutor(2 if scale.quick else 1) as threads:
            yield from threads.map(run, jobs)


def _on(scale: Scale, url: URL, note: str) -> Scale:
    return replace(scale, urls=(url.render_as_string(hide_password=False),), note=note)


def main() -> None:
    """Measure, then print or write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="see that it works; quote nothing")
    parser.add_argument("--print", action="store_true", help="write no file")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[job.module for job in JOBS])
    parser.add_argument(
        "--urls",
        metavar="URL",
        help="a PostgreSQL database that may be written to, by a role that may make databases",
    )
    parser.add_argument("--rounds", type=int, help="turns of each contender")
    parser.add_argument("--units", type=int, help="units in one turn")
    options = parser.parse_args()
    measured = list(sections(options))
    report = [goals.judge(measured), *measured]
    if options.print or options.only:
        print("\n\n".join(section_text(section) for section in report))
        return
    write(report, "make bench-quick" if options.quick else "make bench", DOCS)


if __name__ == "__main__":
    main()
