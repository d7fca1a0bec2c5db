"""Says what loses data or can fail: remarks on operations, in the file and on the terminal."""

import enum
from typing import Any, Final

import sqlalchemy as sa
from alembic.autogenerate import renderers
from alembic.operations import ops
from alembic.operations.ops import MigrateOperation
from sqlalchemy.engine import Dialect

#: How a remark begins in the file.
MARK: Final = "# ! "


class Remark(MigrateOperation):
    """A comment in a revision.

    Args:
        text: The comment.
    """

    def __init__(self, text: str) -> None:
        self.text = text


@renderers.dispatch_for(Remark)
def _render(_context: object, remark: Remark) -> str:
    return f"{MARK}{remark.text}"


def constant_of(column: sa.Column[Any]) -> Any:
    """Return the constant default of *column* as a server default; None if it has none."""
    default = column.default
    value = default.arg if isinstance(default, sa.ColumnDefault) and default.is_scalar else None
    if isinstance(value, bool):
        return sa.true() if value else sa.false()
    if isinstance(value, enum.Enum):
        value = value.name if isinstance(column.type, sa.Enum) else value.value
    return None if value is None else str(value)


def remark_on(op: MigrateOperation, *, first: bool) -> str | None:
    """Return what to think of before *op* is applied to a table with rows."""
    if isinstance(op, ops.DropTableOp):
        return f"drops {op.table_name} with its rows; renamed? op.rename_table keeps them"
    if isinstance(op, ops.DropColumnOp):
        return f"drops {op.column_name} of {op.table_name} with its values"
    if isinstance(op, ops.AddColumnOp):
        return _lacks_default(op)
    if isinstance(op, ops.AlterColumnOp):
        return _altered(op)
    unique = isinstance(op, ops.CreateIndexOp) and op.unique and not first
    if isinstance(op, ops.CreateUniqueConstraintOp) or unique:
        name = getattr(op, "constraint_name", None) or getattr(op, "index_name", None)
        return f"{name} fails where two rows are equal"
    return None


def remark_back(op: MigrateOperation, added: list[sa.Column[Any]], dialect: Dialect) -> str | None:
    """Return what to think of before *op* takes a change back."""
    return _lacks_default(op) if isinstance(op, ops.AddColumnOp) else renamed(op, added, dialect)


def renamed(op: MigrateOperation, added: list[sa.Column[Any]], dialect: Dialect) -> str | None:
    """Return what to write if a column that is dropped is one that is added to its table."""
    if not isinstance(op, ops.DropColumnOp):
        return None
    old = op.to_column()
    there = [new for new in added if new.table.name == op.table_name]
    alike = [new for new in there if new.type.compile(dialect) == old.type.compile(dialect)]
    if not (alike or there):
        return None
    new = (alike or there)[0]
    both = [new.type, old.type]  # of the model, and as the database has it
    known = [f"sa.{each!r}" for each in both if type(each).__module__ == sa.String.__module__]
    return (
        f"renamed? Write this for the two, in downgrade() too: batch_op.alter_column("
        f"{op.column_name!r}, new_column_name={new.name!r}, existing_nullable={old.nullable}, "
        f"existing_type={known[0] if known else '…'})"
    )


def _lacks_default(op: ops.AddColumnOp) -> str | None:
    column = op.column
    if column.nullable or column.server_default is not None or constant_of(column) is not None:
        return None
    return (
        f"{column.name} of {op.table_name} is NOT NULL without a default: this fails where rows "
        f"are; write server_default='…' into it, or add it as nullable, fill it and change it then"
    )


def _altered(op: ops.AlterColumnOp) -> str | None:
    where = f"{op.column_name} of {op.table_name}"
    if op.modify_type is not None:
        return f"changes the type of {where}: every row is written anew, and each must fit"
    if op.modify_nullable is False:
        return f"{where} becomes NOT NULL: this fails where a row has none"
    return None
