"""Shows, writes and applies migrations: how the tables of each plugin change."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifecycle import config as configuration
from lifecycle.errors import ConfigError, LifecycleError
from lifecycle.printable import printable_lines

if TYPE_CHECKING:
    from db_manager.config import DatabaseConfig
    from db_manager.migrations.history import History
    from db_manager.plugin import DatabasePlugin
    from lifecycle.event import Event


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `db-manager migrate`."""
    configuration.add_config_argument(parser)
    parser.add_argument(
        "--plugin", metavar="NAME", help="the plugin of the database, if the bot has several"
    )
    verbs = parser.add_subparsers(title="what to do", dest="verb", metavar="VERB")
    revision = verbs.add_parser("revision", help="write the next migration of a plugin's tables")
    revision.add_argument("owner", nargs="?", metavar="PLUGIN", help="default: each that changed")
    revision.add_argument("-m", dest="message", default="", metavar="TEXT", help="what it does")
    revision.add_argument("--empty", action="store_true", help="write one without changes")
    revision.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 when one is due"
    )
    upgrade = verbs.add_parser("upgrade", help="apply what is pending")
    upgrade.add_argument("owner", nargs="?", metavar="PLUGIN")
    for verb, meaning in {
        "downgrade": "take revisions back, down to REVISION",
        "stamp": "say that the database is at REVISION, and change nothing else",
    }.items():
        added = verbs.add_parser(verb, help=meaning)
        added.add_argument("owner", metavar="PLUGIN")
        added.add_argument("revision", metavar="REVISION", help="0002, or base: before the first")
    for name in ("upgrade", "downgrade"):
        verbs.choices[name].add_argument("--sql", action="store_true", help="print the SQL only")
    parser.epilog = (
        "Without a verb it says what each plugin is at. Exit code: 0; 1 when something is pending; "
        "2 when it could not do its work."
    )


def run(options: argparse.Namespace) -> int:
    """Do what the verb says.

    Returns:
        The exit code.

    Raises:
        ConfigError: The configuration does not fit.
        LifecycleError: A migration failed, or the database cannot be reached.
    """
    path = configuration.config_file(options)
    # SQLAlchemy and pydantic are imported here so that `db-manager --help` does not load them.
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 -- see above

    from db_manager.dialects.safe_text import connection_text  # noqa: PLC0415 -- see above
    from db_manager.errors import DbManagerError  # noqa: PLC0415 -- see above

    code = 0
    for one in _databases(path, options.plugin):
        try:
            code |= asyncio.run(_VERBS[options.verb](one, options))
        except DbManagerError as error:
            raise LifecycleError(str(error)) from error
        except (SQLAlchemyError, OSError) as error:
            raise LifecycleError(connection_text(error)) from error
    return code


class _Database:
    """A database of the bot, and what is known of its migrations."""

    def __init__(self, plugin: "DatabasePlugin", config: "DatabaseConfig") -> None:
        from db_manager.migrations.history import find  # noqa: PLC0415 -- see `run`

        self.plugin = plugin
        self.config = config
        self.histories = find(plugin.metadata)

    def named(self, owner: str | None) -> "dict[str, History]":
        """Return the history of one plugin, or all.

        Raises:
            ConfigError: It has none.
        """
        if owner is None:
            return self.histories
        if owner not in self.histories:
            known = ", ".join(self.histories) or "none"
            raise ConfigError(f"plugin {owner!r} has no migrations; those that have: {known}")
        return {owner: self.histories[owner]}


def _databases(path: Path, wanted: str | None) -> list[_Database]:
    from db_manager.configured import configured_databases  # noqa: PLC0415 -- see `run`

    file = configuration.read_file(path)
    folder = path.absolute().parent
    plugins = configured_databases(file, folder)
    chosen = [each for each in plugins if wanted is None or each.name == wanted]
    if not chosen:
        names = ", ".join(each.name for each in plugins) or "none"
        raise ConfigError(f"{path}: there is no database {wanted!r}; there are: {names}")
    return [_Database(p, configuration.plugin_config(file, p, folder)) for p in chosen]


async def _show(one: _Database, _options: argparse.Namespace) -> int:
    from db_manager.engine.create import create_engine  # noqa: PLC0415 -- see `run`
    from db_manager.migrations.versions import standings  # noqa: PLC0415 -- see `run`

    if not one.histories:
        _say(f"{one.plugin.name}: no plugin has migrations; `migrate revision` writes the first")
        return 0
    engine = create_engine(one.config)
    try:
        async with engine.connect() as connection:
            found = await connection.run_sync(standings, one.histories.values())
    finally:
        await engine.dispose()
    for each in found:
        at = each.at or "no revision"
        said = {
            "current": "",
            "ahead": ", which this code does not know: is it older than the database?",
            "pending": f", pending: {', '.join(each.pending)}",
        }[each.state]
        _say(f"{each.history.plugin:<16} {at}{said}")
    return int(any(each.pending for each in found))


async def _revision(one: _Database, options: argparse.Namespace) -> int:
    from db_manager.migrations.generate import generate, write_empty  # noqa: PLC0415 -- see `run`
    from db_manager.migrations.history import History, folders  # noqa: PLC0415 -- see `run`

    there = folders(one.plugin.metadata)
    if options.owner is not None and options.owner not in there:
        known = ", ".join(there) or "none"
        raise ConfigError(f"plugin {options.owner!r} has no tables; those that have: {known}")
    due = 0
    for plugin in [options.owner] if options.owner else there:
        history = one.histories.get(plugin) or History(plugin, there[plugin], ())
        if options.empty:
            file = await write_empty(history, options.message)
            _say(f"{file}: written; fill it in, and commit it")
            continue
        found = await generate(
            one.config,
            one.plugin.metadata,
            one.histories,
            history,
            message=options.message,
            write=not options.check,
        )
        if found is None:
            _say(f"{plugin}: nothing to do")
            continue
        due = 1
        _say(f"{found.file}: {'due' if options.check else 'written; read it, and commit it'}")
        for remark in found.remarks:
            _say(f"  ! {remark}")
    return due if options.check else 0


async def _upgrade(one: _Database, options: argparse.Namespace) -> int:
    from db_manager.migrations.upgrade import upgrade  # noqa: PLC0415 -- see `run`

    histories = one.named(options.owner)
    if options.sql:
        return await _print(one, options, "head")
    done: list[Event] = []

    def tell(event: "Event") -> None:
        if event.topic == "database.migrated":
            done.append(event)
            known = event.as_dict()
            _say(f"{known['plugin']}: {known['revision']} in {known['duration']:.2f} s")

    await upgrade(one.config, histories.values(), publish=tell)
    if not done:
        _say(f"{one.plugin.name}: nothing is pending")
    return 0


async def _back(one: _Database, options: argparse.Namespace) -> int:
    from db_manager.migrations.move import move  # noqa: PLC0415 -- see `run`

    if getattr(options, "sql", False):
        return await _print(one, options, options.revision)
    [history] = one.named(options.owner).values()
    await move(one.config, history, options.verb, options.revision)
    _say(f"{history.plugin}: at {options.revision}")
    return 0


async def _print(one: _Database, options: argparse.Namespace, target: str) -> int:
    from db_manager.engine.create import create_engine  # noqa: PLC0415 -- see `run`
    from db_manager.migrations.move import print_sql  # noqa: PLC0415 -- see `run`
    from db_manager.migrations.versions import standings  # noqa: PLC0415 -- see `run`

    engine = create_engine(one.config)
    try:
        async with engine.connect() as connection:
            found = await connection.run_sync(standings, one.named(options.owner).values())
    finally:
        await engine.dispose()
    for each in found:
        if options.verb == "downgrade" or each.pending:
            await print_sql(one.config, each.history, options.verb, each.at, target, sys.stdout)
    return 0


_VERBS: Any = {
    None: _show,
    "revision": _revision,
    "upgrade": _upgrade,
    "downgrade": _back,
    "stamp": _back,
}


def _say(line: str) -> None:
    sys.stdout.write(f"{printable_lines(line)}\n")
