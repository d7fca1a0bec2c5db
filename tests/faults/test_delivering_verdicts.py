"""The judge of durable delivery sees each way in which something can go wrong."""

from collections import Counter

import pytest
from support.unreliable import Arrival
from support.verdict import Entry, judge

#: Somebody has said 1 and 2: the first is answered with two messages, the second with one.
SAID = {7: 2}
ENTRIES = [Entry(7, 1, "a"), Entry(7, 2, "b")]
ARRIVED = [Arrival(7, 1, 0, "a"), Arrival(7, 1, 1, "a"), Arrival(7, 2, 0, "b")]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    """Each update was entered once and answered in order."""
    verdict = judge(SAID, ENTRIES, ARRIVED)
    assert (verdict.wrong(), verdict.duplicates) == ({}, 0)


def test_chats_have_no_order_among_each_other() -> None:
    """Messages of another chat may arrive in between, and before what was committed earlier."""
    entries = [*ENTRIES, Entry(8, 1, "c")]
    others = [Arrival(8, 1, each, "c") for each in range(2)]
    assert judge({**SAID, 8: 1}, entries, [*others, *ARRIVED]).wrong() == {}


@pytest.mark.parametrize(
    ("entries", "arrived", "wrong"),
    [
        (ENTRIES[:1], ARRIVED[:2], {"effects_lost": 1}),
        (ENTRIES[1:], ARRIVED[2:], {"effects_lost": 1}),
        (ENTRIES, ARRIVED[:1], {"messages_lost": 2}),
        (ENTRIES[:1], ARRIVED, {"effects_lost": 1, "phantoms": 1}),
        (ENTRIES, [*ARRIVED, Arrival(7, 2, 9, "b")], {"phantoms": 1}),
        (ENTRIES, [ARRIVED[1], ARRIVED[0], ARRIVED[2]], {"messages_out_of_order": 1}),
        (ENTRIES, [ARRIVED[2], *ARRIVED[:2]], {"messages_out_of_order": 1}),
        (ENTRIES[::-1], [ARRIVED[2], *ARRIVED[:2]], {"effects_out_of_order": 1}),
        (
            [*ENTRIES, Entry(7, 2, "c")],
            [*ARRIVED, Arrival(7, 2, 0, "c")],
            {"effects_twice": 1},
        ),
    ],
)
def test_what_is_wrong_is_counted(
    entries: list[Entry], arrived: list[Arrival], wrong: dict[str, int]
) -> None:
    """What is lost, twice, out of order or without a unit has a name and a number."""
    verdict = judge(SAID, entries, arrived)
    assert (verdict.wrong(), verdict.duplicates) == (wrong, 0)


def test_what_comes_again_is_a_duplicate_and_in_order() -> None:
    """After a death a chat is answered again from some message on."""
    verdict = judge(SAID, ENTRIES, [*ARRIVED[:2], *ARRIVED])
    assert (verdict.wrong(), verdict.duplicates) == ({}, 2)
    assert verdict.again == Counter(ARRIVED[:2])
