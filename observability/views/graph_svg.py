"""Draws a graph as a picture in SVG: boxes in layers, and arrows with their labels."""

from collections.abc import Iterator
from html import escape
from itertools import pairwise
from typing import Final, NamedTuple
from unicodedata import east_asian_width

from observability.views.graph import Edge, Graph, Node

_LARGE: Final = 14  # size of the letters of names
_SMALL: Final = 11  # size of those of labels
_LETTER: Final = 0.62  # width of a letter of any font for code, as a part of its size
_HIGH: Final = 40
_BETWEEN: Final = 56  # from the bottom of a layer to the top of the next
_FIRST_LINE: Final = 40  # from the bottom of a layer to the first line of labels below it
_LINE: Final = 14  # from one line of labels to the next
_GAP: Final = 36  # between the boxes of a layer
_MARGIN: Final = 24
_BEND: Final = 24.0  # space for an arrow that passes a layer
_LANE: Final = 40  # to the right, for an arrow that points upwards
_LOOK: Final = """
text { font: 14px ui-monospace, Menlo, Consolas, monospace; text-anchor: middle; fill: #1d2430 }
.note { font-size: 11px; fill: #667085; stroke: #fff; stroke-width: 3px; paint-order: stroke }
rect { fill: #f6f8fb; stroke: #98a2b3 } .good { stroke: #2b9d6a } .bad { stroke: #d3303e }
path { fill: none; stroke: #98a2b3; stroke-width: 1.5 } marker path { fill: #98a2b3; stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e8ef } .note { fill: #98a2b3; stroke: #12161d } rect { fill: #181d26 }
}
"""


def to_svg(graph: Graph) -> str:
    """Return *graph* as SVG; arrows that point upwards go around on the right."""
    layout = _Layout(graph)
    left, top, width, height = layout.view
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="{left:.0f} {top:.0f} {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}">\n<style>{_LOOK}</style>\n'
        f'<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>\n'
        + "\n".join((*layout.arrows(), *layout.boxes(), *layout.labels()))
        + "\n</svg>\n"
    )


class _Place(NamedTuple):
    """The place of a box, or of an arrow that passes a layer."""

    left: float
    width: float
    top: float = 0.0

    @property
    def middle(self) -> float:
        return self.left + self.width / 2


class _Label(NamedTuple):
    """The place of a label: the middle of its line, and the line's own height."""

    text: str
    middle: float
    base: float

    @property
    def left(self) -> float:
        return self.middle - _wide(self.text, _SMALL) / 2

    @property
    def right(self) -> float:
        return self.middle + _wide(self.text, _SMALL) / 2


class _Layout:
    """Boxes in layers, each below those that point to it, except in cycles."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        order = {node.name: index for index, node in enumerate(graph.nodes)}
        joined = _joined(graph.edges)
        self._down = [e for e in joined if order[e.source] < order[e.target]]
        self._up = [e for e in joined if order[e.source] > order[e.target]]
        self._loops = {e.source: e for e in joined if e.source == e.target}
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
        self._labels: dict[Edge, _Label] = {}
        self._place(rows)

    @property
    def view(self) -> tuple[float, float, float, float]:
        """Left, top, width and height of everything that is drawn."""
        labels = self._labels.values()
        left = min([0.0, *(label.left - _MARGIN for label in labels)])
        right = max([self._whole, *(label.right + _MARGIN for label in labels)])
        return left, 0.0, right - left, self._bottom + _MARGIN

    def _place(self, rows: list[list[str]]) -> None:
        boxes = {node.name: _box_width(node) for node in self._graph.nodes}
        slots = {name: boxes.get(name, _BEND) + self._beside(name) for row in rows for name in row}
        lengths = [sum(slots[name] + _GAP for name in row) - _GAP for row in rows]
        self._whole = max(lengths) + 2 * _MARGIN
        for depth, row in enumerate(rows):
            left = (self._whole - lengths[depth]) / 2
            # Sorted by the middle of what points here, so that few arrows cross.
            for name in sorted(row, key=self._middle_above):
                self._places[name] = _Place(left, boxes.get(name, _BEND))
                left += slots[name] + _GAP
        top: float = _MARGIN
        for depth, row in enumerate(rows):
            for name in row:
                self._places[name] = self._places[name]._replace(top=top)
            self._bottom = top + _HIGH
            lines = self._label_arrows_below(depth, self._bottom + _FIRST_LINE)
            top = self._bottom + _BETWEEN + _LINE * max(lines - 1, 0)
        for name, edge in self._loops.items():
            box, width = self._places[name], _wide(edge.label, _SMALL)
            middle = box.left + box.width + _LANE + 6 + width / 2
            self._labels[edge] = _Label(edge.label, middle, box.top + _HIGH / 2 + 4)
        self._place_lanes()

    def _beside(self, name: str) -> float:
        """Return the space that an arrow from a box to itself takes, with its label."""
        loop = self._loops.get(name)
        return _LANE + 6 + _wide(loop.label, _SMALL) if loop else 0.0

    def _label_arrows_below(self, depth: int, base: float) -> int:
        """Place the labels of the arrows that leave a layer; return how many lines they take."""
        lines: list[list[_Label]] = []
        for edge, (before, after, *_) in self._stations.items():
            if self._depths[edge.source] != depth or not edge.label:
                continue
            middle = (self._places[before].middle + 3 * self._places[after].middle) / 4
            label = _Label(edge.label, middle, base)
            free = (i for i, line in enumerate(lines) if not any(_touch(label, o) for o in line))
            at = next(free, len(lines))
            lines[at : at + 1] = [[*(lines[at] if at < len(lines) else ()), label]]
            self._labels[edge] = label._replace(base=base + at * _LINE)
        return len(lines)

    def _place_lanes(self) -> None:
        """Place what points upwards to the right of everything else, a lane for each."""
        self._lanes: dict[Edge, float] = {}
        right = max([self._whole - _MARGIN, *(label.right for label in self._labels.values())])
        for edge in self._up:
            half = _wide(edge.label, _SMALL) / 2
            lane = right + max(_LANE, half + 12)
            self._lanes[edge] = lane
            source, target = self._places[edge.source], self._places[edge.target]
            base = (source.top + target.top + _HIGH) / 2 + 4
            self._labels[edge] = _Label(edge.label, lane, base)
            right = lane + half
        if self._up:
            self._whole = right + _MARGIN

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
        """Yield the arrows."""
        for stations in self._stations.values():
            path = ""
            for before, after in pairwise(self._places[name] for name in stations):
                # A bend is as high as a box, so that the arrow passes beside the boxes.
                x1, y1, x2, y2 = before.middle, before.top + _HIGH, after.middle, after.top
                half = (y1 + y2) / 2
                path += f"{'L' if path else 'M'}{x1:.1f} {y1:.1f}"
                path += f"C{x1:.1f} {half:.1f} {x2:.1f} {half:.1f} {x2:.1f} {y2:.1f}"
            yield _arrow(path)
        for edge, lane in self._lanes.items():
            source, target = self._places[edge.source], self._places[edge.target]
            y1, y2 = source.top + _HIGH * 0.6, target.top + _HIGH * 0.4
            yield _around(source.left + source.width, y1, lane, target.left + target.width, y2)
        for name in self._loops:
            box = self._places[name]
            x = box.left + box.width
            yield _around(x, box.top + _HIGH * 0.75, x + _LANE, x, box.top + _HIGH * 0.25)

    def labels(self) -> Iterator[str]:
        """Yield the labels of the arrows."""
        for label in self._labels.values():
            if label.text:
                yield (
                    f'<text class="note" x="{label.middle:.1f}" y="{label.base:.1f}">'
                    f"{escape(label.text)}</text>"
                )


def _wide(text: str, size: float) -> float:
    """Return the width of *text*: all letters of the font are equally wide, or twice as wide."""
    letters = sum(2 if east_asian_width(each) in "WF" else 1 for each in text)
    return letters * size * _LETTER


def _box_width(node: Node) -> float:
    return max(_wide(node.name, _LARGE), _wide(node.note, _SMALL), 6 * _SMALL) + 28


def _touch(one: _Label, other: _Label) -> bool:
    return one.left < other.right + _SMALL and other.left < one.right + _SMALL


def _joined(edges: tuple[Edge, ...]) -> list[Edge]:
    """Return *edges* with one edge for each pair of boxes, with all labels."""
    labels: dict[tuple[str, str], list[str]] = {}
    for edge in edges:
        labels.setdefault((edge.source, edge.target), []).append(edge.label)
    return [Edge(*ends, label=", ".join(texts)) for ends, texts in labels.items()]


def _arrow(path: str) -> str:
    return f'<path d="{path}" marker-end="url(#arrow)"/>'


def _around(x1: float, y1: float, lane: float, x2: float, y2: float) -> str:
    """Return an arrow upwards: to the right as far as *lane*, up, and back to the left."""
    return _arrow(
        f"M{x1:.1f} {y1:.1f}H{lane - 12:.1f}Q{lane:.1f} {y1:.1f} {lane:.1f} {y1 - 6:.1f}"
        f"V{y2 + 6:.1f}Q{lane:.1f} {y2:.1f} {lane - 12:.1f} {y2:.1f}H{x2:.1f}"
    )
