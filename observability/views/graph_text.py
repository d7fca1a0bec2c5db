"""Draws a graph as text for a terminal: a tree with a line for each box."""

from typing import Final, NamedTuple

from observability.views.graph import Graph, Node


class Strokes(NamedTuple):
    """What the lines of a tree are drawn with.

    Args:
        branch: Leads to a box below which come others.
        last: Leads to the last one.
        passing: Passes a box on the left.
        arrow: Stands between the label of an arrow and the box it points to.
    """

    branch: str
    last: str
    passing: str
    arrow: str


BOX_DRAWING: Final = Strokes("├── ", "└── ", "│   ", " → ")
ASCII: Final = Strokes("|-- ", "`-- ", "|   ", " -> ")
#: Marks a box that is drawn whole above.
AGAIN: Final = " (*)"


def to_text(graph: Graph, *, backwards: bool = False, strokes: Strokes = BOX_DRAWING) -> str:
    """Return *graph* as a tree: below each box stand those its arrows point to.

    A box that several arrows point to is drawn with what is below it once, and is marked with `(*)`
    where it appears again.

    Args:
        graph: The graph.
        backwards: Follow the arrows from their heads: below a plugin stands what it requires.
        strokes: What the lines are drawn with.
    """
    nodes = {node.name: node for node in graph.nodes}
    below: dict[str, dict[str, list[str]]] = {name: {} for name in nodes}
    for edge in graph.edges:
        above, under = (edge.target, edge.source) if backwards else (edge.source, edge.target)
        below[above].setdefault(under, []).append(edge.label)
    pointed_at = {name for under in below.values() for name in under}
    tree = _Tree(nodes, below, strokes)
    for name in nodes:
        if name not in pointed_at:
            tree.draw(name)
    for name in nodes:  # those of a circle
        if name not in tree.drawn:
            tree.draw(name)
    if any(line.endswith(AGAIN) for line in tree.lines):
        tree.lines += ["", f"{AGAIN.strip()} is drawn above"]
    return "".join(f"{line}\n" for line in tree.lines)


class _Tree:
    def __init__(
        self, nodes: dict[str, Node], below: dict[str, dict[str, list[str]]], strokes: Strokes
    ) -> None:
        self._nodes = nodes
        self._below = below
        self._strokes = strokes
        self.drawn: set[str] = set()
        self.lines: list[str] = []

    def draw(self, root: str) -> None:
        """Draw a box, and what is below it as far as it is not drawn yet."""
        waiting = [("", "", "", root)]  # without recursion, however long a chain of boxes is
        while waiting:
            lead, indent, label, name = waiting.pop()
            again = name in self.drawn
            self.lines.append(f"{lead}{label}{_box(self._nodes[name])}{AGAIN * again}")
            if again:
                continue
            self.drawn.add(name)
            under = list(self._below[name].items())
            for index, (each, labels) in reversed(list(enumerate(under))):
                is_last = index == len(under) - 1
                text = ", ".join(filter(None, labels))
                waiting.append(
                    (
                        indent + (self._strokes.last if is_last else self._strokes.branch),
                        indent + (" " * 4 if is_last else self._strokes.passing),
                        text and f"{text}{self._strokes.arrow}",
                        each,
                    )
                )


def _box(node: Node) -> str:
    return f"{node.name}, {node.note}" if node.note else node.name
