"""The declarative Base of all plugins' models: named constraints, one owner per table."""

import enum
import re
from typing import Any, ClassVar, Final, Literal

from sqlalchemy import Enum, MetaData
from sqlalchemy.orm import DeclarativeBase, declared_attr

from db_manager.errors import TableNameError

#: PostgreSQL silently truncates names to 63 bytes, so that two could become one. SQLite reserves
#: names that begin with `sqlite_`.
TABLE_NAME: Final = re.compile(
    r"(?=.{3,63}\Z)(?!sqlite_)[a-z][a-z0-9]*(?:_[a-z0-9]+)*__[a-z][a-z0-9_]*\Z"
)

#: Migrations need constraints and indexes to have the same names on every database.
NAMING_CONVENTION: Final = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

#: Characters for the name of a member of an enumeration, the same for each, so that a new member
#: does not change the column.
ENUM_LENGTH: Final = 64


class Base(DeclarativeBase):
    """Base class of all models; their tables are named `plugin_name__table_name`.

    An enumeration (or a `Literal`) in a model is stored as a string, the name of its member: a type
    of PostgreSQL's own would have to be migrated with each new one.

    An abstract subclass with a `metadata` of its own is the base of another database's models.
    A base of one's own, `class Base(DeclarativeBase): metadata = db_manager.Base.metadata`, shares
    its tables, and may name them as it likes.

    Raises:
        TableNameError: A table name breaks the convention, or belongs to another model.
    """

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        each: Enum(enum.Enum, native_enum=False, length=ENUM_LENGTH)
        for each in (enum.Enum, Literal)
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the table name before SQLAlchemy maps the class."""
        name = None if "__abstract__" in vars(cls) else _table_name(cls)
        if isinstance(name, str):
            _check_name(cls, str(name))
        super().__init_subclass__(**kwargs)


def plugin_of(table: str) -> str:
    """Return the plugin that a table belongs to by its name; empty for one without a prefix.

    Args:
        table: Name of the table.
    """
    prefix, separator, _ = table.partition("__")
    return prefix if separator else ""


def _table_name(model: type[Base]) -> object:
    """Return the name that SQLAlchemy will take for the table of *model*, if it makes one.

    It looks in the model, and then in what is not mapped: mixins and abstract classes. From a
    mapped class only a `declared_attr` is taken; otherwise both are stored in one table.
    """
    if "__table__" in vars(model):
        return getattr(vars(model)["__table__"], "name", None)
    for each in model.__mro__:
        declared = vars(each).get("__tablename__", model)
        if declared is not model and (
            each is model or "__mapper__" not in vars(each) or isinstance(declared, declared_attr)
        ):
            return getattr(model, "__tablename__", None)
    return None


def _check_name(model: type[Base], name: str) -> None:
    me = f"{model.__module__}.{model.__qualname__}"
    if not TABLE_NAME.match(name):
        plugin = re.sub(r"\W", "_", model.__module__.rpartition(".")[2].lower())
        table = re.sub(r"\W", "_", name.lower()).strip("_") or "table"
        raise TableNameError(
            f"model {me}: the table {name!r} must be named plugin_name__table_name, in lower "
            f"case, at most 63 characters; for example {f'{plugin}__{table}'[:63]!r}"
        )
    for mapper in Base.registry.mappers:
        if mapper.local_table is model.metadata.tables.get(name) and not mapper.single:
            owner = f"{mapper.class_.__module__}.{mapper.class_.__qualname__}"
            raise TableNameError(
                f"the table {name!r} is claimed by {owner} and by {me}; rename one of them; the "
                f"tables of a plugin begin with the plugin's name"
            )
