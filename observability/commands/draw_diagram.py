"""Draws the plugins of a bot, their dependencies, and the state of each."""

import argparse
import sys
from typing import TYPE_CHECKING

from lifecycle.config import add_config_argument, app_config, find_plugins, read_file
from lifecycle.errors import JournalError, LifecycleError
from lifecycle.journal import JournalReader
from lifecycle.plugins.machine import State, to_mermaid
from lifecycle.plugins.replay import replay
from lifecycle.printable import printable_lines
from observability.commands.which_run import add_name_argument, find_journal
from observability.views.graph_svg import to_svg
from observability.views.graph_text import ASCII, BOX_DRAWING, Strokes, to_text
from observability.views.plugins import plugin_graph, state_graph

if TYPE_CHECKING:
    from lifecycle.plugins.plugin import Plugin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `db-manager diagram`."""
    add_config_argument(parser)
    add_name_argument(parser)
    parser.add_argument(
        "--format",
        choices=["text", "mermaid", "svg"],
        help="default: text on a terminal, else mermaid",
    )
    parser.add_argument(
        "--states",
        action="store_true",
        help="draw the state machine of a plugin instead",
    )


def run(options: argparse.Namespace) -> int:
    """Write the diagram to standard output; see `cli.Command`."""
    form = options.format or ("text" if sys.stdout.isatty() else "mermaid")
    if form == "mermaid" and options.states:
        sys.stdout.write(to_mermaid())
        return 0
    graph = state_graph() if options.states else plugin_graph(*_plugins(options))
    if form == "text":
        # Below a plugin stands what it requires, below a state what comes after it.
        text = to_text(graph, backwards=not options.states, strokes=_strokes())
        text = text or "no plugins: [app] plugins in config.toml names none\n"
    else:
        text = graph.to_mermaid() if form == "mermaid" else to_svg(graph)
    sys.stdout.write(text)
    return 0


def _strokes() -> Strokes:
    """Return the strokes that standard output can show."""
    try:
        "".join(BOX_DRAWING).encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return ASCII
    return BOX_DRAWING


def _plugins(options: argparse.Namespace) -> "tuple[dict[str, Plugin], dict[str, State]]":
    from lifecycle.plugins.wiring import in_order  # noqa: PLC0415 -- asyncio: the states need none

    names = app_config(read_file(options.config), options.process).plugins
    plugins = in_order(find_plugins(names, options.config.absolute().parent))
    return plugins, _states(options)


def _states(options: argparse.Namespace) -> dict[str, State]:
    """Return the states in which the last run left the plugins; none without a run."""
    try:
        found = find_journal(options)
    except JournalError:  # no run yet
        return {}
    if found is None:
        return {}
    try:
        with JournalReader(found.path) as reader:
            runs = reader.runs()
            return replay(reader.entries(runs[-1].run)) if runs else {}
    except (JournalError, LifecycleError) as error:
        sys.stderr.write(
            f"db-manager diagram: states are left out: {printable_lines(str(error))}\n"
        )
        return {}
