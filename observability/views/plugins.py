"""The picture of plugins and what they require, and that of the states a plugin can be in."""

from typing import TYPE_CHECKING, Final

from lifecycle.plugins.machine import TRANSITIONS, State
from lifecycle.printable import printable
from observability.views.graph import Edge, Graph, Node, Style

if TYPE_CHECKING:
    from lifecycle.plugins.plugin import Plugin  # asyncio: the states need none

_STYLES: Final[dict[State | None, Style]] = {State.STARTED: "good", State.FAILED: "bad"}


def plugin_graph(plugins: "dict[str, Plugin]", states: dict[str, State]) -> Graph:
    """Return the picture of plugins; arrows go from what is required to who requires it.

    Args:
        plugins: By name, each after what it requires.
        states: The state of each, as far as it is known.
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
    """Return the picture of the states and of what leads from one to another."""
    return Graph(
        nodes=tuple(Node(state, style=_STYLES.get(state, "")) for state in State),
        edges=tuple(
            Edge(source, target, label=trigger)
            for trigger, sources, target in TRANSITIONS
            for source in sources
        ),
    )
