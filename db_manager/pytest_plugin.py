"""The fixtures `sandbox` and `faults` for pytest; imports wait until one is used."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

try:
    from pytest_asyncio import fixture as async_fixture
except ModuleNotFoundError:  # anyio's plugin runs plain ones
    async_fixture = pytest.fixture  # type: ignore[assignment]  # as many overloads, other ones

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from db_manager.testing import Databases, Faults, Sandbox
    from lifecycle.bus import EventBus


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting that says where sandboxes are made."""
    parser.addini(
        "sandbox_url",
        "PostgreSQL server where the fixture `sandbox` may create databases; without it, and "
        "without SANDBOX_URL in the environment, a sandbox is a SQLite file",
        default="",
    )


@pytest.fixture(scope="session")
def sandbox_url(pytestconfig: pytest.Config) -> "str | URL":
    """Where sandboxes are made; override it when a fixture of yours starts the server."""
    return os.environ.get("SANDBOX_URL") or str(pytestconfig.getini("sandbox_url"))


@pytest.fixture(scope="session")
def sandbox_databases(sandbox_url: "str | URL") -> "Iterator[Databases]":
    """Make the databases of sandboxes; its template lives as long as the run."""
    from db_manager.testing import Databases  # noqa: PLC0415 -- SQLAlchemy: only when used

    databases = Databases(sandbox_url)
    yield databases
    with ThreadPoolExecutor(1) as thread:  # where no other event loop runs
        thread.submit(asyncio.run, databases.close()).result()


@async_fixture
async def sandbox(
    sandbox_databases: "Databases", event_bus: "EventBus"
) -> "AsyncIterator[Sandbox]":
    """A database of this test's own, in which everything commits for real."""
    from db_manager.testing import Sandbox  # noqa: PLC0415 -- SQLAlchemy: only when used

    async with Sandbox.open(sandbox_databases, event_bus) as sandbox:
        yield sandbox


@pytest.fixture
def faults(sandbox: "Sandbox") -> "Iterator[Faults]":
    """Makes the database of the sandbox, or a plugin, go wrong."""
    from db_manager.testing import Faults  # noqa: PLC0415 -- SQLAlchemy: only when used

    faults = Faults(sandbox)
    yield faults
    faults.close()
