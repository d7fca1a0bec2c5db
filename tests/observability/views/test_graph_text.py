"""A graph as text: a tree for a terminal."""

from itertools import pairwise
from textwrap import dedent

from hypothesis import given
from hypothesis import strategies as st

from observability.views.graph import Edge, Graph, Node
from observability.views.graph_text import ASCII, to_text
from observability.views.plugins import state_graph


def test_a_plugin_that_several_require_is_drawn_whole_once() -> None:
    """Below a plugin stands what it requires, with states; what was drawn already has a mark."""
    needs = {"db": (), "cache": ("db",), "notes": ("cache", "db"), "audit": (), "shop": ("cache",)}
    graph = Graph(
        tuple(Node(name, "started" if name != "audit" else "") for name in needs),
        tuple(Edge(needed, name) for name, required in needs.items() for needed in required),
    )
    assert to_text(graph, backwards=True) == dedent("""\
        notes, started
        ├── cache, started
        │   └── db, started
        └── db, started (*)
        audit
        shop, started
        └── cache, started (*)

        (*) is drawn above
        """)


def test_the_states_are_drawn_with_their_triggers() -> None:
    """Each state is drawn whole once, below a state stand the triggers with where they lead."""
    lines = to_text(state_graph()).splitlines()
    assert lines[:7] == [
        "unloaded",
        "└── loading → loading",
        "    ├── loaded → loaded",
        "    │   ├── starting → starting",
        "    │   │   ├── started → started",
        "    │   │   │   ├── degraded, recovered → started (*)",
        "    │   │   │   └── stopping → stopping",
    ]
    edges = {(edge.source, edge.target) for edge in state_graph().edges}
    assert len(lines) == 1 + len(edges) + 2  # the root, the arrows, and what (*) means


def test_without_box_drawing_the_tree_is_drawn_in_ascii() -> None:
    """A terminal that knows ASCII only is sent nothing else."""
    shown = to_text(state_graph(), strokes=ASCII)
    assert shown.isascii()
    assert "\n    |-- loaded -> loaded\n    |   |-- starting -> starting\n" in shown


def test_a_long_chain_has_as_many_lines() -> None:
    """A thousand plugins that require each other in a row are drawn, as deep as they are."""
    names = [f"p{index}" for index in range(1500)]
    edges = tuple(Edge(*pair) for pair in pairwise(names))
    assert to_text(Graph(tuple(map(Node, names)), edges)).count("\n") == 1500


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), unique=True), st.booleans())
def test_every_box_is_drawn_whole_once_and_every_arrow_once(
    pairs: list[tuple[int, int]], backwards: bool
) -> None:
    """Whatever circles the arrows make, no box and no arrow is left out or drawn twice."""
    edges = tuple(Edge(f"b{one}", f"b{other}") for one, other in pairs)
    graph = Graph(tuple(Node(f"b{index}") for index in range(7)), edges)
    lines = to_text(graph, backwards=backwards).partition("\n\n")[0].splitlines()
    whole = [line.split()[-1] for line in lines if not line.endswith("(*)")]
    assert sorted(whole) == [f"b{index}" for index in range(7)]
    assert len([line for line in lines if "── " in line]) == len(pairs)
