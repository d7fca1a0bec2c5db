"""A graph of boxes and arrows as text for Mermaid and as a picture in SVG."""

import re
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from typing import Final, Literal, NamedTuple

Style = Literal["", "good", "bad"]

_CHAR: Final = 8.2  # width of a character of the labels
_HIGH: Final = 40
_ROW: Final = 96  # from the top of a layer to the top of the next
_GAP: Final = 36  # between the boxes of a layer
_MARGIN: Final = 24
_BEND: Final = 24.0  # space for an arrow that passes a layer
_LANE: Final = 40  # between two arrows that point upwards
_LOOK: Final = """
text { font: 14px system-ui, sans-serif; text-anchor: middle; fill: #1d2430 }
.note { font-size: 11px; fill: #667085; stroke: #fff; stroke-width: 3px; paint-order: stroke }
rect { fill: #f6f8fb; stroke: #98a2b3 } .good { stroke: #2b9d6a } .bad { stroke: #d3303e }
path { fill: none; stroke: #98a2b3; stroke-width: 1.5 } marker path { fill: #98a2b3; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e8ef } .note { fill: #98a2b3; stroke: #12161d } rect { fill: #181d26 }
}
"""


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

    def to_svg(self) -> str:
        """Return the graph as SVG; arrows that point upwards go around on the right."""
        layout = _Layout(self)
        width, height = layout.size
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" height="{height:.0f}">\n<style>{_LOOK}</style>\n'
            f'<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>\n'
            + "\n".join((*layout.arrows(), *layout.boxes()))
            + "\n</svg>\n"
        )


class _Place(NamedTuple):
    """The place of a box, or of an arrow that passes a layer."""

    left: float
    top: float
    width: float

    @property
    def middle(self) -> float:
        return self.left + self.width / 2


class _Layout:
    """Boxes in layers, each below those that point to it, except in cycles."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        order = {node.name: index for index, node in enumerate(graph.nodes)}
        joined = _joined(graph.edges)
        self._down = [e for e in joined if order[e.source] < order[e.target]]
        self._up = [e for e in joined if order[e.source] >= order[e.target]]
        self._depths = dict.fromkeys(order, 0)
        for node in graph.nodes:
            for edge in self._down:
                if edge.source == node.name:
                    below = self._depths[node.name] + 1
                    self._depths[edge.target] = max(self._depths[edge.target], below)
        rows: list[list[str]] = [[] for _ in range(max(self._depths.values(), default=0) + 1)]
        for name, depth in self._depths.items():
            rows[depth].append(name)
        self._stations: dict[Edge, list[str]] = {}
        for edge in self._down:
            first, last = self._depths[edge.source] + 1, self._depths[edge.target]
            bends = [f"{edge.source}\n{edge.target}\n{depth}" for depth in range(first, last)]
            for depth, bend in enumerate(bends, first):
                rows[depth].append(bend)
            self._stations[edge] = [edge.source, *bends, edge.target]
        self._places: dict[str, _Place] = {}
        self.size = self._place(rows)

    def _place(self, rows: list[list[str]]) -> tuple[float, float]:
        widths = dict.fromkeys((name for row in rows for name in row), _BEND)
        for node in self._graph.nodes:
            widths[node.name] = max(len(node.name), len(node.note), 6) * _CHAR + 28
        lengths = [sum(widths[name] + _GAP for name in row) - _GAP for row in rows]
        whole = max(lengths) + 2 * _MARGIN
        for depth, row in enumerate(rows):
            left = (whole - lengths[depth]) / 2
            # Sorted by the middle of what points here, so that few arrows cross.
            for name in sorted(row, key=self._middle_above):
                self._places[name] = _Place(left, _MARGIN + depth * _ROW, widths[name])
                left += widths[name] + _GAP
        height = 2 * _MARGIN + (len(rows) - 1) * _ROW + _HIGH
        self._right = whole - _MARGIN / 2
        return whole + _LANE * len(self._up) + 40 * bool(self._up), height

    def _middle_above(self, name: str) -> float:
        above = [
            self._places[before].middle
            for stations in self._stations.values()
            for before, after in pairwise(stations)
            if after == name
        ]
        return sum(above) / len(above) if above else 0.0

    def boxes(self) -> Iterator[str]:
        """Yield the boxes."""
        for node in self._graph.nodes:
            place = self._places[node.name]
            middle, top = f"{place.middle:.1f}", place.top
            yield (
                f'<rect class="{node.style}" x="{place.left:.1f}" y="{top:.0f}" '
                f'width="{place.width:.1f}" height="{_HIGH}" rx="8"/>'
                f'<text x="{middle}" y="{top + (18 if node.note else 25):.0f}">'
                f"{escape(node.name)}</text>"
            )
            if node.note:
                note = escape(node.note)
                yield f'<text class="note" x="{middle}" y="{top + 32:.0f}">{note}</text>'

    def arrows(self) -> Iterator[str]:
        """Yield the arrows with their labels."""
        for edge, stations in self._stations.items():
            path, label_at = "", (0.0, 0.0)
            for before, after in pairwise(self._places[name] for name in stations):
                # A bend is as high as a box, so that the arrow passes beside the boxes.
                x1, y1, x2, y2 = before.middle, before.top + _HIGH, after.middle, after.top
                half = (y1 + y2) / 2
                path += f"{'L' if path else 'M'}{x1:.1f} {y1:.1f}"
                path += f"C{x1:.1f} {half:.1f} {x2:.1f} {half:.1f} {x2:.1f} {y2:.1f}"
                if label_at == (0.0, 0.0):
                    label_at = (x1 + 3 * x2) / 4, half + 12
            yield _arrow(path, edge.label, *label_at)
        for lane, edge in enumerate(self._up):
            source, target = self._places[edge.source], self._places[edge.target]
            x1, y1 = source.left + source.width, source.top + _HIGH * 0.6
            x2, y2 = target.left + target.width, target.top + _HIGH * 0.4
            out = self._right + _LANE * (lane + 1)
            if source is target:
                out, y1, y2 = x1 + _LANE, y1 + 6, y2 - 6
            path = (
                f"M{x1:.1f} {y1:.1f}H{out - 12:.1f}Q{out:.1f} {y1:.1f} {out:.1f} {y1 - 6:.1f}"
                f"V{y2 + 6:.1f}Q{out:.1f} {y2:.1f} {out - 12:.1f} {y2:.1f}H{x2:.1f}"
            )
            yield _arrow(path, edge.label, out, (y1 + y2) / 2 + 4)


def _joined(edges: tuple[Edge, ...]) -> list[Edge]:
    """Return *edges* with one edge for each pair of boxes, with all labels."""
    labels: dict[tuple[str, str], list[str]] = {}
    for edge in edges:
        labels.setdefault((edge.source, edge.target), []).append(edge.label)
    return [Edge(*ends, label=", ".join(texts)) for ends, texts in labels.items()]


def _arrow(path: str, label: str, x: float, y: float) -> str:
    text = f'<text class="note" x="{x:.1f}" y="{y:.1f}">{escape(label)}</text>' if label else ""
    return f'<path d="{path}" marker-end="url(#arrow)"/>{text}'


def _quoted(text: str) -> str:
    """Return *text* for a Mermaid label, which has entities but no escapes."""
    return re.sub(r'["<>&#;`|\[\]{}()]', lambda match: f"#{ord(match[0])};", text)
