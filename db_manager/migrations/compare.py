"""Compares the tables of a plugin with its models, or with what they were before."""

import warnings
from typing import Any, Final

from sqlalchemy import Connection, MetaData
from sqlalchemy.exc import SAWarning

from db_manager.base import plugin_of
from db_manager.migrations.history import History

#: How the lines begin that Alembic writes around generated code.
_COMMENT: Final = "# ###"


def compared(history: History) -> dict[str, Any]:
    """Return options of Alembic's comparison: the tables of one plugin, and checks by their names.

    Args:
        history: The migrations of the plugin.
    """

    def is_mine(name: str | None, kind: str, _parents: object = None) -> bool:
        table = name or ""
        mine = plugin_of(table) == history.plugin and table != history.version_table
        return kind != "table" or mine

    return {
        "include_name": is_mine,
        "include_object": lambda _, name, kind, *__: is_mine(name, kind),
        "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
    }


def differences(connection: Connection, history: History, metadata: MetaData) -> str:
    """Return the operations that would make the tables of a plugin what *metadata* says.

    Args:
        connection: SQLAlchemy's synchronous connection.
        history: The migrations of the plugin.
        metadata: Its models, or its tables as they were.

    Returns:
        Python code, as in a revision, indented; empty when nothing differs.
    """
    from alembic.autogenerate import (  # noqa: PLC0415 -- Alembic is an extra
        produce_migrations,
        render_python_code,
    )
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 -- the same

    context = MigrationContext.configure(connection, opts=compared(history))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # of indexes that SQLAlchemy cannot read
        needed = produce_migrations(context, metadata).upgrade_ops
    if needed is None or needed.is_empty():
        return ""
    code = render_python_code(needed, migration_context=context)
    lines = [line.strip() for line in code.splitlines()]
    return "\n".join(f"    {line}" for line in lines if line and not line.startswith(_COMMENT))
