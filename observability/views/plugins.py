"""The graphs of plugins and their dependencies, and of the states of a plugin."""

from typing import TYPE_CHECKING, Final

from lifecycle.plugins.machine import TRANSITIONS, State
from lifecycle.printable import printable
from observability.views.graph import Edge, Graph, Node, Style

if TYPE_CHECKING:
    from lifecycle.plugins.plugin import Plugin  # asyncio, which the graph of states does not need

_STYLES: Final[dict[State | None, Style]] = {State.STARTED: "good", State.FAILED: "bad"}


def plugin_graph(plugins: "dict[str, Plugin]", states: dict[str, State]) -> Graph:
    """Return the graph of plugins; arrows point from a plugin to those that require it.

    Args:
        plugins: By name, each after the ones it requires.
        states: The state of each plugin, as far as known.
    """
    return Graph(
        nodes=tuple(
            Node(
                printable(name), note=states.get(name, ""), style=_STYLES.get(states.get(name), "")
            )
            for name in plugins
        ),
        edges=tuple(
            Edge(printable(needed), printable(name))
            for name, plugin in plugins.items()
            for needed in plugin.requires
        ),
    )


def state_graph() -> Graph:
    """Return the graph of the states and the triggers between them."""
    return Graph(
        nodes=tuple(Node(state, style=_STYLES.get(state, "")) for state in State),
        edges=tuple(
            Edge(source, target, label=trigger)
            for trigger, sources, target in TRANSITIONS
            for source in sources
        ),
    )
