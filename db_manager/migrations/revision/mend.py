"""Mends what Alembic's comparison generates, so that it is right on every database."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa
from alembic.autogenerate import render_python_code, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import render_op
from alembic.operations import ops
from alembic.operations.ops import MigrateOperation
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Dialect

from db_manager.dialects.known import databases_of, dialect_of, is_made_on
from db_manager.migrations.revision.remarks import (
    Remark,
    constant_of,
    remark_back,
    remark_on,
    renamed,
)

#: Words for a name, by the first word of Alembic's.
_VERBS: Final = {"remove": "drop", "modify": "change"}


class OnlyOn(MigrateOperation):
    """An operation that is done on some databases only.

    Args:
        names: SQLAlchemy's names of them.
        op: The operation.
    """

    def __init__(self, names: tuple[str, ...], op: MigrateOperation) -> None:
        self.names = names
        self.op = op


@renderers.dispatch_for(OnlyOn)
def _render_if(context: AutogenContext, only: OnlyOn) -> list[str]:
    return [
        f"if op.get_context().dialect.name in {only.names!r}:",
        *render_op(context, only.op),
        "",
    ]


_Change: TypeAlias = Callable[[MigrateOperation], Iterator[MigrateOperation]]


def mend(
    up: ops.UpgradeOps,
    down: ops.DowngradeOps,
    metadata: sa.MetaData,
    dialect: Dialect,
    *,
    first: bool,
) -> list[str]:
    """Change the operations of a revision, so that they are right on every database.

    Args:
        up: Those that apply it.
        down: Those that take it back.
        metadata: The models.
        dialect: SQLAlchemy's dialect of the database in which they were compared.
        first: It is the first one, which leaves tables alone that `create_tables` has made.

    Returns:
        What to think of before it is applied; it stands in the file, too.
    """
    only = partial(_only, limited=_limited(metadata))
    forth, back = _added(up), _added(down)

    def done(op: MigrateOperation) -> Iterator[MigrateOperation]:
        said = (remark_on(op, first=first), renamed(op, forth, dialect))
        yield from (Remark(text) for text in said if text)
        if isinstance(op, ops.CreateTableOp | ops.CreateIndexOp) and first:
            op.if_not_exists = True
        if isinstance(op, ops.AddColumnOp):
            op.column = _with_server_default(op.column)
        yield only(op)

    def undone(op: MigrateOperation) -> Iterator[MigrateOperation]:
        if text := remark_back(op, back, dialect):
            yield Remark(text)
        yield only(op)

    _each(up, done)
    _each(down, undone)
    up.ops += [only(op) for op in _unseen(up, metadata, dialect)]
    return [op.text for op in _flat(up) if isinstance(op, Remark)]


def _limited(metadata: sa.MetaData) -> dict[str, tuple[str, ...]]:
    """Return the databases of each index that is made on some only, by its name."""
    return {
        str(index.name): names
        for table in metadata.tables.values()
        for index in table.indexes
        if (names := databases_of(index))
    }


def _only(op: MigrateOperation, limited: dict[str, tuple[str, ...]]) -> MigrateOperation:
    if not isinstance(op, ops.CreateIndexOp | ops.DropIndexOp):
        return op
    names = limited.get(str(op.index_name))
    return OnlyOn(names, op) if names else op


def rendered(
    context: MigrationContext, up: ops.UpgradeOps, down: ops.DowngradeOps
) -> dict[str, str]:
    """Return the code of a revision: that of its functions, and what that needs as `imports`.

    Args:
        context: Where it was compared.
        up: The operations that apply it.
        down: Those that take it back.
    """
    needed: list[set[str]] = []  # Alembic adds to them while it goes on

    def render_item(kind: str, item: object, rendering: AutogenContext) -> str | Literal[False]:
        needed.append(rendering.imports)
        truth = getattr(item, "arg", None) if kind == "server_default" else None
        if isinstance(truth, sa.True_ | sa.False_):  # SQLite writes it as a number
            return "sa.true()" if isinstance(truth, sa.True_) else "sa.false()"
        return False

    code = partial(
        render_python_code,
        render_as_batch=True,
        render_item=render_item,
        migration_context=context,
    )
    said = {"up": code(up), "down": code(down)}
    return {**said, "imports": "\n".join(sorted(set().union(*needed)))}


def named(container: ops.OpContainer) -> str:
    """Return words for the first of the operations in *container*, as they were generated."""
    op: Any = next(_flat(container))
    diff = op.to_diff_tuple()
    verb = str(diff[0] if isinstance(diff, tuple) else diff[0][0]).partition("_")[0]
    column = getattr(op, "column_name", None) or getattr(getattr(op, "column", None), "name", "")
    table = str(getattr(op, "table_name", "")).partition("__")[2]
    return f"{_VERBS.get(verb, verb)} {column or table}"


def _unseen(
    up: ops.UpgradeOps, metadata: sa.MetaData, dialect: Dialect
) -> Iterator[ops.CreateIndexOp | Remark]:
    """Yield the indexes that the comparison has not seen: those of other databases.

    On SQLite also those on expressions, which are lost where it makes a table anew.
    """
    changed = {
        op.table_name: isinstance(op, ops.ModifyTableOps)
        for op in reversed(up.ops)
        if isinstance(op, ops.CreateTableOp | ops.ModifyTableOps)
    }
    for name, was_there in changed.items():
        indexes = metadata.tables[name].indexes if name in metadata.tables else ()
        for index in sorted(indexes, key=lambda index: str(index.name)):
            is_plain = all(isinstance(each, sa.Column) for each in index.expressions)
            is_here = is_made_on(index, dialect)
            if is_here and (is_plain or not dialect_of(dialect).make_anew):
                continue
            if was_there and is_here:
                yield Remark(
                    f"{index.name} is on an expression: it is made again where SQLite makes "
                    f"{name} anew; downgrade() does not"
                )
            if databases_of(index) == ():
                yield Remark(f"{index.name} is made where a function says so: write it by hand")
            elif is_here or not was_there:
                create = ops.CreateIndexOp.from_index(index)
                create.if_not_exists = True
                yield create


def _each(container: ops.OpContainer, change: _Change) -> None:
    """Put what *change* makes of each operation in its place, in tables too.

    What goes with its table is left out: MariaDB does not drop an index of a foreign key.
    """
    changed: list[MigrateOperation] = []
    dropped = {op.table_name for op in container.ops if isinstance(op, ops.DropTableOp)}
    for op in container.ops:
        if isinstance(op, ops.CreateTableOp):
            _checks_to_the_table(op)
        if not isinstance(op, ops.ModifyTableOps):
            changed += change(op)
        elif op.table_name not in dropped:
            _each(op, change)
            changed.append(op)
    container.ops = changed


def _added(container: ops.OpContainer) -> list[sa.Column[Any]]:
    return [op.column for op in _flat(container) if isinstance(op, ops.AddColumnOp)]


def _flat(container: ops.OpContainer) -> Iterator[MigrateOperation]:
    for op in container.ops:
        yield from _flat(op) if isinstance(op, ops.OpContainer) else [op]


def _checks_to_the_table(op: ops.CreateTableOp) -> None:
    """Let the table have the checks of its columns: Alembic renders those of the table only."""
    checks = [
        sa.CheckConstraint(check.sqltext, name=check.name)
        for column in op.columns
        if isinstance(column, sa.Column)
        for check in column.constraints
        if isinstance(check, sa.CheckConstraint)
    ]
    op.columns = [*op.columns, *checks]


def _with_server_default(column: sa.Column[Any]) -> sa.Column[Any]:
    """Give a NOT NULL column its constant default in the database too.

    So a table with rows takes it, and replicas of the old version keep writing.
    """
    constant = constant_of(column)
    if column.nullable or column.server_default is not None or constant is None:
        return column
    copy = column.table.to_metadata(sa.MetaData()).c[column.name]
    copy.server_default = sa.DefaultClause(constant)
    return copy
