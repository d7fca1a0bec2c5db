"""PostgreSQL is told how the tables of the plugin are used."""

from sqlalchemy.engine import URL
from support.accounting import connected
from support.kept import kept

_PARAMETERS = """
    SELECT relname, reloptions FROM pg_class
    WHERE relname LIKE 'delivery\\_\\_%' AND relkind = 'r' AND reloptions IS NOT NULL
"""


async def test_a_start_makes_tables_that_are_cleaned_up_in_time(postgres_database: URL) -> None:
    """Most of them by the number of dead rows; states have room to change in."""
    async with kept(postgres_database), connected(postgres_database) as admin:
        found = {name: set(said) for name, said in await admin.fetch(_PARAMETERS)}
    by_number = {"autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_threshold=1000"}
    assert found == {
        "delivery__inbox": by_number,
        "delivery__outbox": by_number,
        "delivery__recipient": by_number,
        "delivery__fsm": {"fillfactor=70"},
    }
