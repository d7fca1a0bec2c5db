"""Alembic alone, with an environment as its users write it."""

from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

_ENVIRONMENT = """
from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="shop__alembic_version",
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
"""


def upgrade_alone(connection: Connection, revisions: Path, target: str) -> None:
    """Apply the revisions in a folder, up to *target*, as Alembic does it."""
    with TemporaryDirectory() as folder:
        Path(folder, "env.py").write_text(_ENVIRONMENT, encoding="utf-8")
        config = Config(attributes={"connection": connection})
        for name, value in {
            "script_location": folder,
            "version_locations": str(revisions),
            "path_separator": "newline",
        }.items():
            config.set_main_option(name, value)
        command.upgrade(config, target)
