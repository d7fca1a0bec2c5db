"""A changed history is accepted exactly when some run could have produced it."""

import asyncio
import functools
from collections.abc import Callable, Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from lifecycle import (
    Application,
    Event,
    IllegalHistoryError,
    MemoryJournal,
    Plugin,
    PluginContext,
    PluginFailedError,
    replay,
)
from lifecycle.journal import JournalEntry


class Part(Plugin):
    """A plugin that provides, degrades, recovers, and fails its first start."""

    def __init__(self, name: str, *requires: str) -> None:
        self.name = name
        self.requires = requires
        self.starts = 0

    async def load(self, context: PluginContext) -> None:
        """Provide something."""
        context.provide("thing", self)

    async def start(self, context: PluginContext) -> None:
        """Fail the first time; be degraded at once later."""
        self.starts += 1
        if self.starts == 1 and self.name == "b":
            raise RuntimeError("not yet")
        context.degraded("late")


@functools.cache
def true_history() -> tuple[JournalEntry, ...]:
    """Return the journal of three real runs with a failure, a restart and a recovery."""

    async def runs() -> tuple[JournalEntry, ...]:
        journal = MemoryJournal()
        app = Application([Part("a"), Part("b", "a")], journal=journal)
        try:
            await app.start()
        except PluginFailedError:
            await app.unload()
        for _ in range(2):
            await app.start()
            context = app.plugins["a"].context
            assert context is not None
            context.recovered()
            await app.restart("b")
            await app.unload()
        return tuple(entry for run in (1, 2, 3) for entry in journal.entries(run))

    return asyncio.run(runs())


#: What may follow what, written down a second time and in another way than in the code.
NEXT = {
    "": ["loading"],
    "loading": ["loaded", "failed"],
    "loaded": ["starting", "unloading"],
    "starting": ["started", "failed"],
    "started": ["degraded", "stopping"],
    "degraded": ["degraded", "recovered", "stopping"],
    "recovered": ["degraded", "stopping"],
    "stopping": ["stopped", "failed"],
    "stopped": ["starting", "unloading"],
    "unloading": ["unloaded", "failed"],
    "failed": ["unloading"],
    "unloaded": ["loading"],
}


def fits(past: Sequence[Event], event: Event) -> bool:
    """Say, by reading the whole past of the run again, whether *event* may come now."""
    fields = event.as_dict()
    kind, _, what = event.topic.partition(".")
    lasts = {}
    for old in past:
        if old.topic.startswith("plugin."):
            lasts[old.as_dict()["plugin"]] = old.topic.removeprefix("plugin.")
    offers = [old for old in past if old.as_dict().get("service") == fields.get("service")]
    offered = bool(offers) and offers[-1].topic == "service.provided"
    ends = [old.topic for old in past if old.topic in ("app.stopping", "app.stopped")]
    stopping = ends[-1:] == ["app.stopping"]
    alive = lasts.get(fields.get("plugin"), "unloaded") not in ("unloaded", "failed")
    if kind == "plugin":
        holds = 0
        for old in past:
            if old.topic.startswith("service.") and old.as_dict()["plugin"] == fields["plugin"]:
                holds += 1 if old.topic == "service.provided" else -1
        leaves = what in ("unloaded", "failed")
        return what in NEXT[lasts.get(fields["plugin"], "")] and not (leaves and holds)
    answers = {
        "service.provided": alive and not offered,
        "service.withdrawn": offered and offers[-1].as_dict()["plugin"] == fields.get("plugin"),
        "app.crashed": not past,
        "app.stopping": not stopping,
        "app.stopped": stopping,
        "app.started": not stopping
        and all(
            lasts.get(name) in ("started", "degraded", "recovered")
            for name in fields.get("plugins", ())
        ),
    }
    return answers[event.topic]


def first_fault(entries: Sequence[JournalEntry]) -> int | None:
    """Return the sequence number of the first entry that does not fit, or None."""
    run, past = 0, list[Event]()
    for entry in entries:
        if entry.run != run:
            if entry.run < run:
                return entry.seq
            run, past = entry.run, []
        if entry.seq != len(past) + 1 or not fits(past, entry.event):
            return entry.seq
        past.append(entry.event)
    return None


def renumbered(entries: Sequence[JournalEntry]) -> list[JournalEntry]:
    """Return the same events with good sequence numbers."""
    counts: dict[int, int] = {}
    result = []
    for entry in entries:
        counts[entry.run] = counts.get(entry.run, 0) + 1
        result.append(msgspec.structs.replace(entry, seq=counts[entry.run]))
    return result


def test_true_history_is_accepted() -> None:
    """What an application really recorded is legal, to the code and to the oracle."""
    entries = true_history()
    assert set(replay(entries).values()) == {"unloaded"}
    assert first_fault(entries) is None
    topics = {entry.event.topic for entry in entries}
    assert {"plugin.failed", "plugin.degraded", "plugin.recovered", "app.stopped"} <= topics


def test_mutated_history_is_accepted_when_it_is_legal(full: bool, row: Callable[..., None]) -> None:
    """J3: of dropped, repeated, swapped and changed entries code and oracle say the same."""
    examples = 1000 if full else 300
    settings(max_examples=examples, deadline=None)(given(data=st.data())(check_mutation))()
    row("J3", load=f"{examples} mutated histories", result="accepted if and only if legal")


def check_mutation(data: st.DataObject) -> None:
    """Mutate a history; code and oracle agree whether it is legal, and where it is not."""
    entries = list(true_history())
    places = st.integers(0, len(entries) - 2)
    for _ in range(data.draw(st.integers(1, 3), label="mutations")):
        place = min(data.draw(places, label="place"), len(entries) - 2)
        match data.draw(st.sampled_from(["drop", "repeat", "swap", "change", "cut"]), label="how"):
            case "drop":
                del entries[place]
            case "repeat":
                entries.insert(place, entries[place])
            case "swap":
                entries[place], entries[place + 1] = entries[place + 1], entries[place]
            case "change":
                other = data.draw(st.sampled_from(entries), label="other")
                entries[place] = msgspec.structs.replace(entries[place], event=other.event)
            case "cut":
                del entries[max(place, 2) :]
    if data.draw(st.booleans(), label="renumber"):
        entries = renumbered(entries)
    fault = first_fault(entries)
    try:
        replay(entries)
    except IllegalHistoryError as error:
        assert error.seq == fault  # noqa: PT017 -- both outcomes are checked
    else:
        assert fault is None
