"""Fixtures for the recipes: each runs as a program, against a local Telegram."""

from pathlib import Path

import pytest
from sqlalchemy.engine import URL
from support.programs import Run, program

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"


@pytest.fixture
def run(database_url: URL, tmp_path: Path) -> Run:
    """Run a recipe by name, in a folder and on a database of the test's own."""
    return lambda name, *servers, **environment: program(
        RECIPES / name, tmp_path, database_url, *servers, **environment
    )
