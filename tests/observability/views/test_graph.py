"""A graph as a picture: every label can be read, whatever the names are."""

from pathlib import Path
from typing import NamedTuple
from unicodedata import east_asian_width
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.browser import Browser, find_browser

from observability.views.graph import Edge, Graph, Node
from observability.views.graph_svg import to_svg
from observability.views.plugins import state_graph

SVG = "{http://www.w3.org/2000/svg}"
LONG = "examples.notes_bot.audit.with_a_name_that_never_seems_to_end"
PLUGINS = Graph(
    nodes=(
        Node("db_manager", "started", "good"),
        Node(LONG, "starting"),
        Node("n", "failed", "bad"),
        Node("заметки_пользователей", "started"),
        Node("日本語のプラグイン", "unloaded"),
        Node("m" * 80),
    ),
    edges=(
        Edge("db_manager", LONG),
        Edge("db_manager", "n"),
        Edge("db_manager", "заметки_пользователей"),
        Edge(LONG, "日本語のプラグイン"),
        Edge("db_manager", "m" * 80),
        Edge("n", "m" * 80),
    ),
)


class Box(NamedTuple):
    """A rectangle of a picture: the text or box `name`, and its sides."""

    name: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        """Return whether they have a point in common."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def holds(self, other: "Box") -> bool:
        """Return whether *other* lies in it."""
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom


def text_box(text: ET.Element) -> Box:
    """Return the place of a text; the letters of a font for code are 0.6 of its size wide."""
    size = 11 if text.get("class") == "note" else 14
    letters = sum(2 if east_asian_width(each) in "WF" else 1 for each in text.text or "")
    middle, base, half = float(text.attrib["x"]), float(text.attrib["y"]), letters * size * 0.3
    return Box(text.text or "", middle - half, base - 0.8 * size, middle + half, base + 0.2 * size)


def rectangle(rect: ET.Element) -> Box:
    """Return the place of a box."""
    x, y, width, height = (float(rect.attrib[each]) for each in ("x", "y", "width", "height"))
    return Box("box", x, y, x + width, y + height)


def faults(texts: list[Box], boxes: list[Box], whole: Box) -> list[tuple[str, ...]]:
    """Return what cannot be read: a text that is cut, or covered by another one or by a box."""
    found: list[tuple[str, ...]] = [
        ("outside", each.name) for each in (*texts, *boxes) if not whole.holds(each)
    ]
    for index, text in enumerate(texts):
        over = [other for other in texts[index + 1 :] if text.overlaps(other)]
        over += [box for box in boxes if text.overlaps(box) and not box.holds(text)]
        found += [(text.name, other.name) for other in over]
    for index, box in enumerate(boxes):
        found += [("two boxes",) for other in boxes[index + 1 :] if box.overlaps(other)]
    return found


def unreadable(graph: Graph) -> list[tuple[str, ...]]:
    """Return what cannot be read in the picture of a graph."""
    root = ET.fromstring(to_svg(graph))  # noqa: S314 -- our own text
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    texts = [text_box(each) for each in root.iter(f"{SVG}text")]
    boxes = [rectangle(each) for each in root.iter(f"{SVG}rect")]
    named = sum(1 + bool(node.note) for node in graph.nodes)
    pairs = {(edge.source, edge.target): edge.label for edge in graph.edges}
    assert len(boxes) == len(graph.nodes)
    assert len(texts) == named + len([label for label in pairs.values() if label])
    return faults(texts, boxes, Box("picture", left, top, left + width, top + height))


@pytest.mark.parametrize("graph", [PLUGINS, state_graph()], ids=["plugins", "states"])
def test_no_label_is_cut_or_covered(graph: Graph) -> None:
    """Each label stands inside of its box or beside all boxes, and inside of the picture."""
    assert unreadable(graph) == []


NAMES = st.text("abm_.жЩ本", min_size=1, max_size=50)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw graphs with any names, labels and arrows: circles and arrows to oneself, too."""
    names = draw(st.lists(NAMES, min_size=1, max_size=7, unique=True))
    nodes = tuple(Node(name, draw(st.sampled_from(["", "started"]))) for name in names)
    ends = st.tuples(st.sampled_from(names), st.sampled_from(names))
    pairs = draw(st.lists(ends, max_size=12, unique=True))
    return Graph(nodes, tuple(Edge(*pair, label=draw(NAMES | st.just(""))) for pair in pairs))


@given(graphs())
def test_no_label_of_any_graph_is_cut_or_covered(graph: Graph) -> None:
    """Whatever the names and however many arrows there are, every text can be read."""
    assert unreadable(graph) == []


#: The places of texts and boxes as the browser has drawn them.
DRAWN = """[...document.querySelectorAll('text, rect')].map((each) => {
  const box = each.getBBox();
  return [each.tagName, each.textContent, box.x, box.y, box.x + box.width, box.y + box.height];
})"""


@pytest.mark.parametrize("graph", [PLUGINS, state_graph()], ids=["plugins", "states"])
async def test_a_browser_shows_every_label_whole(graph: Graph, tmp_path: Path) -> None:
    """With the fonts of a real browser no label is cut or covered either.

    Where no browser is installed, only what the other tests say about the picture is tested.
    """
    program = find_browser()
    if program is None:
        print("no browser is installed: the picture was not looked at")  # noqa: T201 -- a reader of the report should know
        return
    svg = to_svg(graph)
    file = tmp_path / "graph.html"
    file.write_text(f"<!DOCTYPE html><meta charset='utf-8'><body data-item>{svg}", "utf-8")
    async with Browser(program, tmp_path / "profile") as browser, browser.page() as page:
        await page.open(file, width=1200, height=900, scheme="light")
        drawn = await page.value(DRAWN)
    texts = [Box(*each) for tag, *each in drawn if tag == "text"]
    boxes = [Box("box", *sides) for tag, _, *sides in drawn if tag == "rect"]
    assert len(boxes) == len(graph.nodes)
    left, top, width, height = map(float, ET.fromstring(svg).attrib["viewBox"].split())  # noqa: S314 -- our own text
    whole = Box("picture", left, top, left + width, top + height)
    assert faults(texts, boxes, whole) == []
