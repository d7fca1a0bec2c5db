"""Writes the next revisions of the plugins that are one's own."""

import argparse

from db_manager.migrate.chosen import Chosen, say
from db_manager.migrations.history import History, folders, wheels
from db_manager.migrations.revision.generate import draft, generate
from lifecycle.errors import ConfigError


async def revision(one: Chosen, options: argparse.Namespace) -> int:
    """Write the next revision of a plugin, or of each that changed.

    Raises:
        ConfigError: The plugin is not one's own, has no tables, or is not named.
        MigrationError: A migration that is there does not go through.
        ScratchError: There is no scratch database.
    """
    there, owners = folders(one.plugin.metadata), _owners(one, options)
    due = 0
    for plugin in owners:
        history = one.histories.get(plugin) or History(plugin, there[plugin], ())
        if options.empty:
            empty = draft(history, options.message)
            empty.write()
            say(f"{empty.file}: written; fill it in, and commit it")
            continue
        found = await generate(
            one.config,
            one.plugin.metadata,
            one.histories,
            history,
            message=options.message,
            scratch_url=options.scratch,
        )
        if found is None:
            say(f"{plugin}: nothing to do")
            continue
        due = 1
        if not options.check:
            found.write()
        say(f"{found.file}: {'due' if options.check else 'written; read it, and commit it'}")
        for remark in found.remarks:
            say(f"  ! {remark}")
    if not owners:
        say(f"{one.plugin.name}: no plugin of your own has tables")
    return due if options.check else 0


def _owners(one: Chosen, options: argparse.Namespace) -> list[str]:
    """Return the plugins to write for.

    Raises:
        ConfigError: See `revision`.
    """
    there, installed = folders(one.plugin.metadata), wheels(one.plugin.metadata)
    ours = [plugin for plugin in there if plugin not in installed]
    wanted: str | None = options.owner
    if wanted is not None and wanted not in there:
        known = ", ".join(there) or "none"
        raise ConfigError(f"plugin {wanted!r} has no tables; those that have: {known}")
    if wanted is not None and wanted in installed:
        raise ConfigError(
            f"plugin {wanted!r} is not yours to write into: it came with {installed[wanted]}, and "
            f"its migrations come with the next release of that; its authors write them"
        )
    if wanted is None and options.empty and len(ours) > 1:
        raise ConfigError(f"--empty: name the plugin: {', '.join(ours)}")
    return [wanted] if wanted is not None else ours
