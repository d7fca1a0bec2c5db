"""Fixtures of the observability tests: a real application with a database."""

import os

import pytest
from sqlalchemy.engine import URL

from db_manager.plugin import DatabasePlugin
from lifecycle.application import Application


@pytest.fixture
def application(sqlite_database: URL, monkeypatch: pytest.MonkeyPatch) -> Application:
    """An application with the database plugin on SQLite, not started yet."""
    for name in os.environ:
        if name.upper().startswith("DATABASE__"):
            monkeypatch.delenv(name)
    url = sqlite_database.render_as_string(hide_password=False)
    section = {"url": url, "create_tables": False, "drift": "ignore"}
    return Application([DatabasePlugin], config={"database": section})
