"""What `db-manager migrate` does: a function for each verb, which returns the exit code."""

import argparse
import sys
from typing import Any, Final

from sqlalchemy import Table

from db_manager.migrate.chosen import Chosen, say
from db_manager.migrate.writing import revision
from db_manager.migrations.history import folders
from db_manager.migrations.migrating import migrating_engine
from db_manager.migrations.move import move, upgrade
from db_manager.migrations.printing import sql_of
from db_manager.migrations.versions import Standing
from db_manager.schema import create_missing_tables
from lifecycle.event import Event


async def show(one: Chosen, _options: argparse.Namespace) -> int:
    """Say what each plugin is at, what is pending, and what differs."""
    found = await one.at()
    for each in found:
        say(f"{each.history.plugin:<16} {each.said}")
    without = [name for name in folders(one.plugin.metadata) if name not in one.histories]
    for plugin in without:
        say(f"{plugin:<16} no migrations; `migrate revision {plugin}` writes the first")
    if not found and not without:
        say(f"{one.plugin.name}: no plugin has tables")
    await _tell_differences(one, found)
    return int(any(each.pending for each in found))


async def apply(one: Chosen, options: argparse.Namespace) -> int:
    """Apply what is pending, or print it.

    Raises:
        ConfigError: The plugin has no migrations.
        MigrationError: A migration failed.
    """
    histories = one.named(options.owner)
    if options.sql:
        return await _print(one, options, "head")
    before = await one.at()
    done: list[Event] = []

    def tell(event: Event) -> None:
        if event.topic == "database.migrated":
            done.append(event)
            known = event.as_dict()
            say(f"{known['plugin']}: {known['revision']} in {known['duration']:.2f} s")

    if one.config.create_tables and any(each.pending for each in before):
        async with migrating_engine(one.config) as engine:
            await create_missing_tables(engine, one.plugin.metadata, one.histories, alone=True)
    await upgrade(one.config, histories.values(), publish=tell)
    if not done:
        say(f"{one.plugin.name}: nothing is pending")
    await _tell_differences(one, await one.at())
    return 0


async def go_back(one: Chosen, options: argparse.Namespace) -> int:
    """Take revisions back, or say what the database is at.

    Raises:
        ConfigError: The plugin has no migrations.
        MigrationError: There is no such revision, or it failed.
    """
    [history] = one.named(options.owner).values()
    if getattr(options, "sql", False):
        return await _print(one, options, options.revision)
    at = await move(one.config, history, options.verb, options.revision)
    say(f"{history.plugin}: at {at or 'no revision'}")
    return 0


async def _print(one: Chosen, options: argparse.Namespace, target: str) -> int:
    wanted = one.named(options.owner)
    found = [each for each in await one.at() if each.history.plugin in wanted]
    tables: list[Table] = []
    if options.verb == "upgrade" and any(each.pending for each in found):
        tables = await one.created_before()
    sys.stdout.write(await sql_of(one.config, options.verb, found, target, tables))
    return 0


async def _tell_differences(one: Chosen, found: list[Standing]) -> None:
    """Say what differs from the models at the last revision, and what is nobody's."""
    async with one.connected() as connection:
        differing = await connection.run_sync(one.differing, found)
        nobodys = await connection.run_sync(one.nobodys)
    for plugin, every in differing.items():
        say(f"{plugin} is at its last revision, and differs from its models:")
        for each in every:
            say(f"  ! {each.what}; {each.cure}")
        say(
            f"  did the models change? `migrate revision {plugin}`; if it finds nothing to do, the "
            f"tables were there before the first revision: run these statements"
        )
    for plugin, tables in nobodys.items():
        say(f"{plugin:<16} nobody's: {', '.join(tables)}; is its plugin in [app] plugins?")


VERBS: Final[dict[str | None, Any]] = {
    None: show,
    "revision": revision,
    "upgrade": apply,
    "downgrade": go_back,
    "stamp": go_back,
}
