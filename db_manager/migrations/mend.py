"""Mends what Alembic's comparison generates, and remarks on what loses data or can fail."""

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import sqlalchemy as sa
from alembic.autogenerate import renderers
from alembic.operations import ops
from alembic.operations.ops import MigrateOperation, MigrationScript
from alembic.runtime.migration import MigrationContext

from db_manager.dialects.known import dialect_of
from db_manager.migrations.history import History

#: How a remark begins, in the file and on the terminal.
MARK: Final = "# ! "
#: Words for a name, by the first word of Alembic's.
_VERBS: Final = {"remove": "drop", "modify": "change"}


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


@dataclass(frozen=True)
class Generated:
    """A revision that was written, or would be.

    Args:
        id: Its id, which is the name of its file.
        file: The file.
        remarks: What to think of before it is applied.
    """

    id: str
    file: Path
    remarks: tuple[str, ...]


class Mending:
    """Changes the operations of a revision, so that they are right on every database.

    Args:
        history: What it is a part of; without revisions yet, it leaves tables alone that
            `create_tables` has made.
        metadata: The models.
        message: What it does, for its name; by default what changes first.
        write: Let Alembic write the file.
    """

    def __init__(
        self, history: History, metadata: sa.MetaData, message: str, *, write: bool
    ) -> None:
        self.generated: Generated | None = None
        self._history = history
        self._metadata = metadata
        self._message = message
        self._write = write
        self._remarks: list[str] = []

    @property
    def first(self) -> bool:
        """Whether it is the first revision."""
        return not self._history.revisions

    def __call__(
        self, context: MigrationContext, _revision: object, scripts: list[MigrationScript]
    ) -> None:
        """Mend the one script of *scripts*; without operations it is left out.

        The signature is that of Alembic's `process_revision_directives`.
        """
        [script] = scripts
        if script.upgrade_ops is None or script.downgrade_ops is None:
            return  # nothing was compared
        if script.upgrade_ops.is_empty():
            scripts.clear()
            return
        _each(script.upgrade_ops, self._mended)
        _each(script.downgrade_ops, _undone)
        if dialect_of(context.dialect).make_anew:
            self._keep_expressions(script.upgrade_ops)
        message = self._message or ("first" if self.first else _named(script.upgrade_ops))
        script.message = message
        script.rev_id = self._history.next_id(message)
        file = self._history.folder / f"{script.rev_id}.py"
        self.generated = Generated(script.rev_id, file, tuple(self._remarks))
        if not self._write:
            scripts.clear()

    def render(self, kind: str, item: object, _context: object) -> str | Literal[False]:
        """Return the code of a default that is a truth value: SQLite writes it as a number.

        The signature is that of Alembic's `render_item`.
        """
        truth = getattr(item, "arg", None) if kind == "server_default" else None
        if isinstance(truth, sa.True_ | sa.False_):
            return "sa.true()" if isinstance(truth, sa.True_) else "sa.false()"
        return False

    def _mended(self, op: MigrateOperation) -> Iterator[MigrateOperation]:
        if (text := _remark(op, first=self.first)) is not None:
            self._remarks.append(text)
            yield Remark(text)
        if isinstance(op, ops.CreateTableOp):
            _checks_to_the_table(op)
        if isinstance(op, ops.CreateTableOp | ops.CreateIndexOp) and self.first:
            op.if_not_exists = True
        if isinstance(op, ops.AddColumnOp):
            op.column = _with_server_default(op.column)
        yield op

    def _keep_expressions(self, container: ops.UpgradeOps) -> None:
        """Make indexes on expressions, which Alembic does not see on SQLite.

        Where SQLite makes a table anew, those that it had are lost.
        """
        changed = {
            op.table_name: isinstance(op, ops.ModifyTableOps)
            for op in reversed(container.ops)
            if isinstance(op, ops.CreateTableOp | ops.ModifyTableOps)
        }
        for name, was_there in changed.items():
            indexes = self._metadata.tables[name].indexes if name in self._metadata.tables else ()
            for index in sorted(indexes, key=lambda index: str(index.name)):
                is_plain = all(isinstance(each, sa.Column) for each in index.expressions)
                if is_plain or getattr(index, "_ddl_if", None) is not None:
                    continue
                if was_there:
                    text = (
                        f"{index.name} is on an expression: it is made again where SQLite makes "
                        f"{name} anew; downgrade() does not"
                    )
                    self._remarks.append(text)
                    container.ops.append(Remark(text))
                create = ops.CreateIndexOp.from_index(index)
                create.if_not_exists = True
                container.ops.append(create)


def _named(container: Any) -> str:
    """Return words for the first of the operations in *container*."""
    op = _first(container)
    while isinstance(op, ops.ModifyTableOps):
        op = _first(op)
    diff = op.to_diff_tuple()
    verb = str(diff[0] if isinstance(diff, tuple) else diff[0][0]).partition("_")[0]
    column = getattr(op, "column_name", None) or getattr(getattr(op, "column", None), "name", "")
    table = str(getattr(op, "table_name", "")).partition("__")[2]
    return f"{_VERBS.get(verb, verb)} {column or table}"


def _first(container: Any) -> Any:
    return next(each for each in container.ops if not isinstance(each, Remark))


def _undone(op: MigrateOperation) -> Iterator[MigrateOperation]:
    """Remark on what fails on the way back, in the file only."""
    if isinstance(op, ops.CreateTableOp):
        _checks_to_the_table(op)
    if isinstance(op, ops.AddColumnOp) and (text := _added(op)) is not None:
        yield Remark(text)
    yield op


def _each(container: Any, change: Any) -> None:
    """Put what *change* makes of each operation in its place, in tables too.

    What goes with its table is left out: MariaDB does not drop an index of a foreign key.
    """
    changed: list[MigrateOperation] = []
    for op in container.ops:
        if isinstance(op, ops.OpContainer):
            _each(op, change)
            changed.append(op)
        else:
            changed += change(op)
    dropped = {op.table_name for op in changed if isinstance(op, ops.DropTableOp)}
    container.ops = [op for op in changed if not _falls_with(op, dropped)]


def _falls_with(op: MigrateOperation, dropped: set[str]) -> bool:
    """Return True if *op* drops an index of a table that is dropped as a whole."""
    if isinstance(op, ops.ModifyTableOps):
        op.ops = [each for each in op.ops if not _falls_with(each, dropped)]
        return not op.ops
    return isinstance(op, ops.DropIndexOp) and op.table_name in dropped


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
    constant = _constant(column)
    if column.nullable or column.server_default is not None or constant is None:
        return column
    copy = column.table.to_metadata(sa.MetaData()).c[column.name]
    copy.server_default = sa.DefaultClause(constant)
    return copy


def _constant(column: sa.Column[Any]) -> Any:
    """Return the constant default of *column* as a server default; None if it has none."""
    default = column.default
    value = default.arg if isinstance(default, sa.ColumnDefault) and default.is_scalar else None
    if isinstance(value, bool):
        return sa.true() if value else sa.false()
    if isinstance(value, enum.Enum):
        value = value.name if isinstance(column.type, sa.Enum) else value.value
    return None if value is None else str(value)


def _remark(op: MigrateOperation, *, first: bool) -> str | None:
    """Return what to think of before *op* is applied to a table with rows."""
    if isinstance(op, ops.DropTableOp):
        return f"drops {op.table_name} with its rows; renamed? op.rename_table keeps them"
    if isinstance(op, ops.DropColumnOp):
        where = f"{op.column_name} of {op.table_name}"
        return f"drops {where} with its values; renamed? new_column_name of alter_column keeps them"
    if isinstance(op, ops.AddColumnOp):
        return _added(op)
    if isinstance(op, ops.AlterColumnOp):
        return _altered(op)
    unique = isinstance(op, ops.CreateIndexOp) and op.unique and not first
    if isinstance(op, ops.CreateUniqueConstraintOp) or unique:
        name = getattr(op, "constraint_name", None) or getattr(op, "index_name", None)
        return f"{name} fails where two rows are equal"
    return None


def _added(op: ops.AddColumnOp) -> str | None:
    column = op.column
    if column.nullable or column.server_default is not None or _constant(column) is not None:
        return None
    return (
        f"{column.name} of {op.table_name} is NOT NULL without a default: this fails where rows "
        f"are; give it a server_default, or fill it in between"
    )


def _altered(op: ops.AlterColumnOp) -> str | None:
    where = f"{op.column_name} of {op.table_name}"
    if op.modify_type is not None:
        return f"changes the type of {where}: every row is written anew, and each must fit"
    if op.modify_nullable is False:
        return f"{where} becomes NOT NULL: this fails where a row has none"
    return None
