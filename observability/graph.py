"""A graph of boxes and arrows as text for Mermaid and as a picture in SVG."""

import re
from collections.abc import Mapping
from html import escape
from typing import Final, Literal, NamedTuple

Style = Literal["", "good", "bad"]

_CHAR: Final = 8.2  # width of a character of the labels
_HIGH: Final = 40
_ROW: Final = 96  # from the top of a layer to the top of the next
_GAP: Final = 36  # between the boxes of a layer
_MARGIN: Final = 24
_LOOK: Final = """
text { font: 14px system-ui, sans-serif; text-anchor: middle; fill: #1d2430 }
.note { font-size: 11px; fill: #667085 }
rect { fill: #f6f8fb; stroke: #98a2b3 } .good { stroke: #2b9d6a } .bad { stroke: #d3303e }
path { fill: none; stroke: #98a2b3; stroke-width: 1.5 } marker path { fill: #98a2b3; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e8ef } .note { fill: #98a2b3 } rect { fill: #181d26 }
}
"""


class Node(NamedTuple):
    """A box.

    Args:
        name: What stands in it; unique.
        note: What stands below the name, smaller.
        style: How it looks.
    """

    name: str
    note: str = ""
    style: Style = ""


class Edge(NamedTuple):
    """An arrow.

    Args:
        source: Name of the box where it begins.
        target: Name of the box where it ends.
        label: What stands beside it.
    """

    source: str
    target: str
    label: str = ""


class Graph(NamedTuple):
    """Boxes and arrows.

    Args:
        nodes: The boxes; what comes earlier stands higher or further to the left.
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

    def to_svg(self) -> str:
        """Return the graph as a picture; arrows to a higher box go around on the right."""
        boxes, width, height = self._boxes()
        parts = [_edge(edge, boxes, width) for edge in _joined(self.edges)]
        parts += [_box(node, boxes[node.name]) for node in self.nodes]
        width += _MARGIN + 90 * any(_goes_up(edge, boxes) for edge in self.edges)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" height="{height:.0f}">\n<style>{_LOOK}</style>\n'
            f'<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>\n'
            + "\n".join(parts)
            + "\n</svg>\n"
        )

    def _layers(self) -> dict[str, int]:
        """Return how deep each box stands: below all that lead to it, but for circles."""
        order = {node.name: index for index, node in enumerate(self.nodes)}
        layers = dict.fromkeys(order, 0)
        for node in self.nodes:
            for edge in self.edges:
                if edge.source == node.name and order[edge.source] < order[edge.target]:
                    layers[edge.target] = max(layers[edge.target], layers[node.name] + 1)
        return layers

    def _boxes(self) -> tuple[dict[str, "_Box"], float, float]:
        layers = self._layers()
        rows: list[list[Node]] = [[] for _ in range(max(layers.values(), default=0) + 1)]
        for node in self.nodes:
            rows[layers[node.name]].append(node)
        widths = {n.name: max(len(n.name), len(n.note), 6) * _CHAR + 28 for n in self.nodes}
        wide = [sum(widths[n.name] + _GAP for n in row) - _GAP for row in rows]
        whole = max(wide, default=0) + 2 * _MARGIN
        boxes = {}
        for depth, row in enumerate(rows):
            left = (whole - wide[depth]) / 2
            # Below the middle of what leads here, so that few arrows cross.
            for node in sorted(row, key=lambda each: self._middle(each, boxes)):
                boxes[node.name] = _Box(left, _MARGIN + depth * _ROW, widths[node.name])
                left += widths[node.name] + _GAP
        return boxes, whole, 2 * _MARGIN + (len(rows) - 1) * _ROW + _HIGH

    def _middle(self, node: Node, boxes: Mapping[str, "_Box"]) -> float:
        above = [
            boxes[e.source].middle
            for e in self.edges
            if e.target == node.name and e.source in boxes
        ]
        return sum(above) / len(above) if above else 0.0


class _Box(NamedTuple):
    left: float
    top: float
    width: float

    @property
    def middle(self) -> float:
        return self.left + self.width / 2


def _joined(edges: tuple[Edge, ...]) -> list[Edge]:
    """Return *edges* with those between the same boxes as one."""
    labels: dict[tuple[str, str], list[str]] = {}
    for edge in edges:
        labels.setdefault((edge.source, edge.target), []).append(edge.label)
    return [Edge(*ends, label=", ".join(texts)) for ends, texts in labels.items()]


def _goes_up(edge: Edge, boxes: Mapping[str, _Box]) -> bool:
    return boxes[edge.target].top <= boxes[edge.source].top


def _box(node: Node, box: _Box) -> str:
    middle = f"{box.middle:.1f}"
    name_at = box.top + (18 if node.note else 25)
    note = f'<text class="note" x="{middle}" y="{box.top + 32:.0f}">{escape(node.note)}</text>'
    return (
        f'<rect class="{node.style}" x="{box.left:.1f}" y="{box.top:.0f}" '
        f'width="{box.width:.1f}" height="{_HIGH}" rx="8"/>'
        f'<text x="{middle}" y="{name_at:.0f}">{escape(node.name)}</text>{note if node.note else ""}'
    )


def _edge(edge: Edge, boxes: Mapping[str, _Box], width: float) -> str:
    source, target = boxes[edge.source], boxes[edge.target]
    if _goes_up(edge, boxes):
        start = (source.left + source.width, source.top + _HIGH / 2)
        end = (target.left + target.width, target.top + _HIGH / 2 + 6 * (source == target))
        out = width + 40 if source != target else start[0] + 46
        curve = f"C{out:.1f} {start[1]:.1f} {out:.1f} {end[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
        at = (0.25 * start[0] + 0.75 * out, (start[1] + end[1]) / 2 + 4)
    else:
        start = (source.middle, source.top + _HIGH)
        end = (target.middle, target.top)
        half = (start[1] + end[1]) / 2
        curve = f"C{start[0]:.1f} {half:.1f} {end[0]:.1f} {half:.1f} {end[0]:.1f} {end[1]:.1f}"
        at = ((start[0] + end[0]) / 2, half + 4)
    path = f'<path d="M{start[0]:.1f} {start[1]:.1f}{curve}" marker-end="url(#arrow)"/>'
    label = f'<text class="note" x="{at[0]:.1f}" y="{at[1]:.1f}">{escape(edge.label)}</text>'
    return path + (label if edge.label else "")


def _quoted(text: str) -> str:
    """Return *text* for a label of Mermaid, which knows entities but no escapes."""
    return re.sub(r'["<>&#;`|\[\]{}()]', lambda match: f"#{ord(match[0])};", text)
