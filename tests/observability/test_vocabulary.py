"""What observability knows of db_manager by name is what db_manager has."""

from collections.abc import Mapping
from typing import get_type_hints

import msgspec
import pytest

from db_manager import events
from lifecycle.application import Application
from lifecycle.event import EVENT_TYPES
from observability import vocabulary
from observability.metrics import instruments
from observability.story.unit_log import TOPICS, UnitFact

#: Fields of a line of the record that no event has: the record adds them.
OF_THE_RECORD = {"run", "topic", "lines"}


def fields(topic: str) -> dict[str, object]:
    """Return the fields of the event with a topic, each with its type."""
    kind = EVENT_TYPES[topic]
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize("topic", vocabulary.EVENTS)
def test_a_known_event_has_the_known_fields(topic: str) -> None:
    """Each topic is one of db_manager's, and has each field that is known of it, of that type."""
    assert getattr(events, EVENT_TYPES[topic].__name__) is EVENT_TYPES[topic]
    known = get_type_hints(vocabulary.EVENTS[topic])
    assert known.pop("topic") is str
    assert known.items() <= fields(topic).items()


def test_every_topic_has_its_fields_in_the_vocabulary() -> None:
    """A topic that is named is described."""
    named = {
        value
        for name, value in vars(vocabulary).items()
        if name.isupper() and isinstance(value, str) and "." in value
    }
    assert named == vocabulary.EVENTS.keys()


def test_a_line_of_the_record_has_fields_of_the_recorded_events() -> None:
    """Each field of a recorded unit is known of a recorded topic, with the same type or a wider."""
    recorded: dict[str, object] = {}
    for topic in TOPICS:
        recorded |= get_type_hints(vocabulary.EVENTS[topic])
    recorded["outcome"] = str  # a record of another version may have another one
    mine = {field.encode_name: field.type for field in msgspec.structs.fields(UnitFact)}
    assert {n: t for n, t in mine.items() if n not in OF_THE_RECORD}.items() <= recorded.items()


def test_histograms_with_names_of_their_own_are_measured() -> None:
    """Each is a measure of its event, and its labels are labels of it, or the plugin."""
    for (topic, field), (_name, labels) in instruments._HISTOGRAMS.items():
        assert field in EVENT_TYPES[topic].measures
        assert set(labels) <= {*EVENT_TYPES[topic].labels, "plugin"}


async def test_a_pool_has_the_known_levels(application: Application) -> None:
    """The probe of a pool has the four levels, and no other."""
    async with application:
        levels = application.probes["db_manager:pool"]()
    assert isinstance(levels, Mapping)
    pool = {value for name, value in vars(vocabulary).items() if name.startswith("POOL_")}
    assert levels.keys() == pool - {vocabulary.POOL_EXHAUSTED}
