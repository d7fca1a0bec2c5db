"""Modules of one test run may have their sandboxes in different places."""

from pathlib import Path

from sqlalchemy.engine import URL
from support.forks import forked
from support.programs import ended

PYPROJECT = """
[tool.pytest.ini_options]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
addopts = ["-p", "no:cacheprovider"]
"""
DEFAULT = """
async def test_default(sandbox):
    assert sandbox.url.get_backend_name() == "sqlite"
"""
#: The fixture is what starts a server: it sees what is left there when the server ends.
SERVER = """
import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest


async def left(server):
    connection = await asyncpg.connect(server)
    try:
        query = "SELECT datname FROM pg_database WHERE datname LIKE 'sandbox_' || $1 || '%'"
        return await connection.fetch(query, str(os.getpid()))
    finally:
        await connection.close()


@pytest.fixture(scope="session", params=["asyncpg", "psycopg"])
def sandbox_url(request):
    yield "{server}".replace("postgresql:", f"postgresql+{{request.param}}:")
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(asyncio.run, left("{server}")).result() == [], "left at the end"


async def test_server(sandbox, request):
    assert sandbox.url.drivername == "postgresql+" + request.node.callspec.params["sandbox_url"]
"""


def test_each_module_is_where_its_own_fixture_says(tmp_path: Path, postgres_admin: URL) -> None:
    """Also after a module with the default; nothing is left on a server when it ends."""
    server = postgres_admin.set(drivername="postgresql").render_as_string(hide_password=False)
    files = {
        "pyproject.toml": PYPROJECT,
        "test_a_default.py": DEFAULT,
        "test_b_server.py": SERVER.format(server=server),
        "test_c_default.py": DEFAULT,
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    run = ended(*forked("-m", "pytest"), cwd=tmp_path, SANDBOX_URL="")
    assert run.returncode == 0, run.stdout
    assert "4 passed" in run.stdout
