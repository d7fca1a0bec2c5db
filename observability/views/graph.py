"""A graph: boxes with names, and arrows between them."""

import re
from typing import Literal, NamedTuple

Style = Literal["", "good", "bad"]


class Node(NamedTuple):
    """A box.

    Args:
        name: Its text; unique.
        note: Smaller text below the name.
        style: Colour of its border.
    """

    name: str
    note: str = ""
    style: Style = ""


class Edge(NamedTuple):
    """An arrow.

    Args:
        source: Name of the box it starts at.
        target: Name of the box it points to.
        label: Text beside it.
    """

    source: str
    target: str
    label: str = ""


class Graph(NamedTuple):
    """Boxes and arrows.

    Args:
        nodes: The boxes, from top to bottom and from left to right.
        edges: The arrows between them.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def to_mermaid(self) -> str:
        """Return the graph as the text of a Mermaid flowchart."""
        ids = {node.name: f"n{index}" for index, node in enumerate(self.nodes)}
        lines = ["flowchart TD"]
        for node in self.nodes:
            note = f"<br/><small>{_quoted(node.note)}</small>" if node.note else ""
            style = f":::{node.style}" if node.style else ""
            lines.append(f'    {ids[node.name]}["{_quoted(node.name)}{note}"]{style}')
        for edge in self.edges:
            label = f'|"{_quoted(edge.label)}"|' if edge.label else ""
            lines.append(f"    {ids[edge.source]} -->{label} {ids[edge.target]}")
        lines.append("    classDef good stroke:#2b9d6a")
        lines.append("    classDef bad stroke:#d3303e")
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return *text* for a Mermaid label, which has entities but no escapes."""
    return re.sub(r'["<>&#;`|\[\]{}()]', lambda match: f"#{ord(match[0])};", text)
