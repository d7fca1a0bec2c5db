"""Writes the statements that make a table as its model is, in the words of its database."""

from typing import Any

from sqlalchemy import Column, Constraint, Index, Table, UniqueConstraint, exc
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import AddConstraint, CreateColumn, CreateIndex, DDLElement

from db_manager.dialects.known import dialect_of


class Cures:
    """The statements for one database.

    Args:
        dialect: SQLAlchemy's dialect of the connection.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._ours = dialect_of(dialect)
        self._names = dialect.identifier_preparer

    def add_column(self, column: Column[Any]) -> str:
        """Return the statement that adds *column*."""
        table = self._names.format_table(column.table)
        cure = f"ALTER TABLE {table} ADD COLUMN {self._definition(column)}"
        if column.nullable or column.server_default is not None:
            return cure
        return f"{cure} DEFAULT … (with the value for rows that are there)"

    def change_type(self, column: Column[Any]) -> str:
        """Return the statement that gives *column* its type."""
        return self._change(self._ours.change_type, column)

    def add_labels(self, column: Column[Any], labels: list[str]) -> str:
        """Return the statements that give the enumeration of *column* more values."""
        quoted = ["'" + label.replace("'", "''") + "'" for label in labels]
        every = (self._change(self._ours.add_label, column, label) for label in quoted)
        return "; ".join(dict.fromkeys(every))  # one says all of them on MariaDB

    def change_null(self, column: Column[Any]) -> str:
        """Return the statement that lets *column* be NULL, or not."""
        return self._change(self._ours.change_null, column)

    def add_index(self, index: Index) -> str:
        """Return the statement that creates *index*."""
        return self._statement(CreateIndex(index))

    def add_constraint(self, table: Table, constraint: Constraint) -> str:
        """Return the statement that adds *constraint*, or an index that refuses the same rows."""
        if not self._ours.make_anew:
            return self._statement(AddConstraint(constraint, isolate_from_table=False))
        if not isinstance(constraint, UniqueConstraint):
            return self._ours.make_anew
        named = constraint.name is not None and self._names.format_constraint(constraint)
        columns = ", ".join(self._names.format_column(each) for each in constraint.columns)
        where = f"{self._names.format_table(table)} ({columns})"
        return f"CREATE UNIQUE INDEX {named or '…'} ON {where}"

    def _change(self, template: str, column: Column[Any], label: str = "") -> str:
        if self._ours.make_anew:
            return self._ours.make_anew
        return template.format(
            table=self._names.format_table(column.table),
            column=self._names.format_column(column),
            type=column.type.compile(dialect=self._dialect),
            definition=self._definition(column),
            label=label,
            how="DROP" if column.nullable else "SET",
        )

    def _definition(self, column: Column[Any]) -> str:
        return self._statement(CreateColumn(column))

    def _statement(self, element: DDLElement | CreateColumn) -> str:
        try:
            return " ".join(str(element.compile(dialect=self._dialect)).split())
        except exc.SQLAlchemyError:  # as a text without a length on MariaDB
            return "(the model cannot be made on this database; see what its create_all says)"
