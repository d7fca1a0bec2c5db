"""The statement that loads an object by its key: SQLAlchemy makes it for each `get`, we once.

To make it, and its key in SQLAlchemy's cache, is a tenth of the calls of a unit that reads an
object (docs/performance.md).
"""

from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn
from uuid import UUID

from sqlalchemy.orm import Mapper, Session

#: Types of a key that is a value by itself; SQLAlchemy reads the others, as a tuple or a dict.
KEYS: Final = frozenset((int, str, UUID))
#: Classes whose statement is kept: more than a bot has.
_KEPT: Final = 1000


class ByKey(NamedTuple):
    """How an object of one class is loaded."""

    statement: Any
    #: Name of the statement's one parameter.
    parameter: str
    #: Execution options.
    options: Any
    mapper: Mapper[Any]

    def key(self, ident: object) -> Any:
        """Return where a session has the object with the key *ident*."""
        return self.mapper.identity_key_from_primary_key((ident,))


def by_key(entity: type) -> ByKey | None:
    """Return how SQLAlchemy loads an object of *entity* by its key.

    Returns:
        The statement; None where it depends on more than the class, where that is not mapped, or
        where SQLAlchemy has changed.
    """
    mapper = entity.__dict__.get("__mapper__")  # a class may be mapped anew
    return None if mapper is None else _of(mapper)


@lru_cache(maxsize=_KEPT)
def _of(mapper: Any) -> ByKey | None:
    if (
        not isinstance(mapper, Mapper)
        or len(mapper.primary_key) != 1
        or mapper.always_refresh
        or mapper.polymorphic_on is not None
        or mapper.inherits is not None
    ):
        return None
    try:
        _Asked().get(mapper.class_, 0)
    except _ToldError as told:
        statement, params, options = told.args
        if len(params) == 1:
            return ByKey(statement, next(iter(params)), options, mapper)
    return None


class _Asked(Session):
    """A session that says what it would execute."""

    def execute(self, statement: Any, params: Any = None, **others: Any) -> NoReturn:
        """Say it.

        Raises:
            _ToldError: Always.
        """
        raise _ToldError(statement, params, others["execution_options"])


class _ToldError(Exception):
    """The statement, its parameters, and its execution options."""
