"""The fixtures `sandbox`, `faults`, `migrations`, `outbox`; their imports wait until then."""

import asyncio
import os
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

try:
    from pytest_asyncio import fixture as async_fixture
except ModuleNotFoundError:  # anyio's plugin runs async fixtures declared with pytest.fixture
    async_fixture = pytest.fixture  # type: ignore[assignment]  # its overloads differ

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from db_manager.testing import Databases, Faults, Migrations, Outbox, Sandbox
    from lifecycle.bus import EventBus

#: What creates databases, by where it does.
_DATABASES: "pytest.StashKey[dict[object, Databases]]" = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting `sandbox_url`."""
    parser.addini(
        "sandbox_url",
        "PostgreSQL server on which the fixture `sandbox` may create databases; if neither this "
        "nor SANDBOX_URL in the environment is set, a sandbox is a SQLite file",
        default="",
    )


@pytest.fixture(scope="session")
def sandbox_url(pytestconfig: pytest.Config) -> "str | URL":
    """Where sandboxes are created; override it if one of your fixtures starts the server."""
    given = os.environ.get("SANDBOX_URL")  # empty means SQLite, whatever the setting says
    return str(pytestconfig.getini("sandbox_url")) if given is None else given


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: "pytest.FixtureDef[object]", request: pytest.FixtureRequest
) -> "Generator[None, object, object]":
    """Drop what was created at an address before the fixture that gave it ends its server."""
    value = yield
    if fixturedef.argname == "sandbox_url":
        request.addfinalizer(lambda: _close(request.session, value))  # the last one runs first
    return value


def _close(session: pytest.Session, address: object) -> None:
    databases = session.stash.get(_DATABASES, {}).pop(address, None)
    if databases is not None:
        with ThreadPoolExecutor(1) as thread:  # asyncio.run needs a thread without a running loop
            thread.submit(asyncio.run, databases.close()).result()


@pytest.fixture
def sandbox_databases(request: pytest.FixtureRequest, sandbox_url: "str | URL") -> "Databases":
    """Creates the databases of sandboxes; the template lives as long as `sandbox_url`."""
    from db_manager.testing import Databases  # noqa: PLC0415 -- SQLAlchemy: only when used

    # Not a fixture of the whole run: pytest would keep its value for a module that overrides
    # `sandbox_url`.
    known = request.session.stash.setdefault(_DATABASES, {})
    if sandbox_url not in known:
        known[sandbox_url] = Databases(sandbox_url)
    return known[sandbox_url]


@async_fixture
async def sandbox(
    sandbox_databases: "Databases", event_bus: "EventBus"
) -> "AsyncIterator[Sandbox]":
    """A database for this test alone, in which commits are real."""
    from db_manager.testing import Sandbox  # noqa: PLC0415 -- SQLAlchemy: only when used

    async with Sandbox.open(sandbox_databases, event_bus) as sandbox:
        yield sandbox


@async_fixture
async def migrations(sandbox: "Sandbox", sandbox_databases: "Databases") -> "Migrations":
    """Runs migrations in the sandbox, which begins without tables, and checks them."""
    from db_manager.testing import Migrations  # noqa: PLC0415 -- SQLAlchemy: only when used

    await sandbox.without_tables()
    return Migrations(sandbox, sandbox_databases)


@pytest.fixture
def faults(sandbox: "Sandbox") -> "Iterator[Faults]":
    """Injects faults into the sandbox's database or into a plugin."""
    from db_manager.testing import Faults  # noqa: PLC0415 -- SQLAlchemy: only when used

    faults = Faults(sandbox)
    yield faults
    faults.close()


@pytest.fixture
def outbox(sandbox: "Sandbox") -> "Outbox":
    """Reads what has become of the messages that were given to `uow.send`."""
    from db_manager.testing import Outbox  # noqa: PLC0415 -- SQLAlchemy: only when used

    return Outbox(sandbox)
