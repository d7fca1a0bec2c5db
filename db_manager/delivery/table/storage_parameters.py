"""How PostgreSQL stores the tables: how often it cleans them up, and how full their pages are."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import DDL, event

from db_manager.base import Base

#: Of a table whose rows end soon after they were written, and are kept for days: what is dead is
#: cleaned up by its number, and not when it is a fifth of all that is kept. There is no
#: `fillfactor`: with its owner each row changes its place in an index, and needs no room in its
#: page.
CLEANED_BY_NUMBER: Final = {
    "autovacuum_vacuum_scale_factor": "0",
    "autovacuum_vacuum_threshold": "1000",
}
#: Of a table whose rows change again and again, and never what an index has of them: where there is
#: room in the page, a change writes no index.
WITH_ROOM: Final = {"fillfactor": "70"}


def stored_with(model: type[Base], parameters: Mapping[str, str]) -> None:
    """Let PostgreSQL store a table in this way, from its creation on.

    Args:
        model: The table.
        parameters: Its storage parameters.
    """
    # A table has no option for them before SQLAlchemy 2.1.
    said = ", ".join(f"{name} = {value}" for name, value in parameters.items())
    statement = DDL(f"ALTER TABLE %(fullname)s SET ({said})")  # type: ignore[no-untyped-call]  # untyped there
    event.listen(model.__table__, "after_create", statement.execute_if(dialect="postgresql"))
