"""The picture of a run: a lane for each plugin, with its hooks, units and events as items."""

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from lifecycle.errors import counted
from lifecycle.event import Event
from lifecycle.events import (
    AppCrashed,
    AppDrained,
    AppStarted,
    AppStopped,
    AppStopping,
    PluginDegraded,
    PluginEvent,
    PluginRecovered,
    ServiceProvided,
    ServiceWithdrawn,
)
from lifecycle.journal import JournalEntry
from lifecycle.printable import printable
from observability import vocabulary
from observability.story.migrations import migrations
from observability.story.steps import HookRun, steps
from observability.story.texts import LONG_WAIT, duration_text
from observability.story.unit_log import UnitFact
from observability.views.sentences import BACK, DELIVERED, MOMENTS, stayed, waiting

#: Units that are drawn at most, so that a phone's browser can draw them.
MAX_UNITS: Final = 10_000
#: Rows for concurrent units in a lane; further units share the last row.
MAX_ROWS: Final = 6
#: Outcomes that need no attention.
_WELL: Final = ("committed", "joined")
APP: Final = "application"
ELSEWHERE: Final = "outside of plugins"

Kind = Literal["load", "start", "stop", "unload", "unit", "migration", "moment", "degraded"]
ItemState = Literal["done", "failed", "open", "warned"]


class Lane(msgspec.Struct):
    """The lane of a plugin, or of the application.

    Args:
        name: Its title.
        rows: Rows for units and migrations, below the one for hooks.
    """

    name: str
    rows: int = 0


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """Something with a duration, or a moment.

    Args:
        lane: Index of its lane.
        row: 0 for hooks and moments, 1 and up for units and migrations.
        kind: What it is.
        state: How it ended.
        begin: Begin, in seconds since the start of the run.
        end: End, in seconds since the start of the run.
        name: Its title.
        lines: Details, one line each.
    """

    lane: int
    row: int = 0
    kind: Kind
    state: ItemState = "done"
    begin: float
    end: float
    name: str
    lines: tuple[str, ...] = ()


class Picture(msgspec.Struct, kw_only=True):
    """Everything that is drawn.

    Args:
        began: Start of the run, seconds since the epoch.
        length: Seconds it lasted, as far as known.
        lanes: From top to bottom.
        items: In no order.
        left_out: Number of units that are not drawn.
    """

    began: float
    length: float
    lanes: list[Lane]
    items: list[Item]
    left_out: int = 0

    def listed(self) -> list[Item]:
        """Return the rows of the text table, for screen readers: all but units that went well."""
        worth = [each for each in self.items if each.kind != "unit" or each.state != "done"]
        return sorted(worth, key=lambda each: each.begin)


def draw(
    entries: Sequence[JournalEntry],
    units: Sequence[UnitFact],
    *,
    began: float,
    ended_at: float | None = None,
) -> Picture:
    """Return the picture of one run.

    Args:
        entries: Its history.
        units: The records of its units.
        began: When it began, seconds since the epoch.
        ended_at: When it ended, if known.
    """
    moments = [began, ended_at or began]
    moments += [entry.event.at for entry in entries]
    moments += [fact.at for fact in units]
    artist = _Artist(began, max(moments))
    artist.lane(APP)
    for step in steps(entry.event for entry in entries):
        if isinstance(step, HookRun):
            artist.hook(step)
        elif isinstance(step, PluginEvent):
            artist.of_plugin(step)
        else:
            artist.of_application(step)
    artist.still_degraded()
    artist.migrations(units)
    artist.units(units)
    return artist.picture


class _Artist:
    def __init__(self, began: float, ended: float) -> None:
        # Not 0, so that the picture has a width.
        self.picture = Picture(began=began, length=max(ended - began, 0.001), lanes=[], items=[])
        self._lanes: dict[str, int] = {}
        self._degraded: dict[str, PluginDegraded] = {}

    def lane(self, name: str) -> int:
        if name not in self._lanes:
            self._lanes[name] = len(self._lanes)
            self.picture.lanes.append(Lane(printable(name)))
        return self._lanes[name]

    def hook(self, hook: HookRun) -> None:
        failed = hook.outcome == "failed"
        begin = hook.begun - self.picture.began
        end = self.picture.length if hook.duration is None else begin + hook.duration
        lines = [hook.error] if failed else ["unfinished"] * (hook.outcome == "open")
        lines += [f"during cleanup: {error}" for error in hook.cleanup_errors]
        for fact in hook.facts:
            if isinstance(fact, ServiceProvided):
                lines.append(f"provides {fact.service}")
            elif isinstance(fact, ServiceWithdrawn):
                lines.append(f"withdraws {fact.service}")
            elif isinstance(fact, PluginEvent):
                self.of_plugin(fact)
        name = f"{hook.hook} {hook.plugin}{' failed' if failed else ''}"
        self._add(hook.plugin, name, begin, end, lines, kind=hook.hook, state=hook.outcome)

    def of_plugin(self, event: PluginEvent) -> None:
        if isinstance(event, PluginDegraded):
            self._degraded.setdefault(event.plugin, event)
            return
        lost = self._degraded.pop(event.plugin, None)
        if lost is not None:
            self._lost(lost, event.at - self.picture.began)
        if not isinstance(event, PluginRecovered):
            at = event.at - self.picture.began
            self._add(event.plugin, event.topic, at, at, [])

    def still_degraded(self) -> None:
        for event in self._degraded.values():
            self._lost(event, self.picture.length)

    def _lost(self, event: PluginDegraded, end: float) -> None:
        begin = event.at - self.picture.began
        lines = [event.reason]
        self._add(event.plugin, f"{event.plugin} degraded", begin, end, lines, "degraded", "warned")

    def of_application(self, event: Event) -> None:
        at = event.at - self.picture.began
        match event:
            case AppStarted():
                begin, lines = at - event.duration, [", ".join(event.plugins)]
                self._add(APP, "application start", begin, at, lines, "start")
            case AppStopped():
                begin, state = at - event.duration, "failed" if event.errors else "done"
                name = "application stop"
                self._add(APP, name, begin, at, event.errors, "stop", state)  # type: ignore[arg-type] # mypy: widens the literals
            case AppDrained():
                were = "was" if event.waited == 1 else "were"
                lines = [f"{counted(event.waited, 'update')} {were} in flight"]
                lines += [f"cancelled: {update}" for update in event.cancelled]
                self._add(APP, "drain", at - event.duration, at, lines, "stop")
            case AppCrashed():
                lines = [f"last event: {event.last_topic} {event.last_plugin}".rstrip()]
                self._add(APP, f"previous run {event.run} crashed", at, at, lines, state="warned")
            case AppStopping():
                pass  # app.stopped has its time
            case _:
                self._add(APP, event.topic.replace(".", " "), at, at, [])

    def migrations(self, facts: Iterable[UnitFact]) -> None:
        for each in migrations(facts):
            begin = each.at - self.picture.began
            end = self.picture.length if each.duration is None else begin + each.duration
            lines = [each.error, stayed(each.kept)] if each.outcome == "failed" else []
            lines += ["unfinished"] * (each.outcome == "open")
            name = f"migrate {each.owner}{each.on_database}: {each.revision}"
            lane = each.plugin or ELSEWHERE
            self._add(lane, name, begin, end, lines, "migration", each.outcome, row=1)

    def units(self, facts: Iterable[UnitFact]) -> None:
        ends = (vocabulary.UNIT_CLOSE, vocabulary.UNIT_LEAVE, *DELIVERED)
        closed = [fact for fact in facts if fact.topic in ends]
        for fact in facts:
            if fact.topic not in {*ends, *vocabulary.MIGRATIONS}:
                self._warning(fact)
        if len(closed) > MAX_UNITS:
            self.picture.left_out = len(closed) - MAX_UNITS
            closed.sort(key=lambda fact: (not _went_well(fact), fact.took))
            closed = closed[-MAX_UNITS:]
        rows: dict[str, list[float]] = {}
        for fact in sorted(closed, key=lambda fact: fact.at - fact.took):
            plugin = _lane(fact)
            begin, end = (each - self.picture.began for each in (fact.at - fact.took, fact.at))
            busy = rows.setdefault(plugin, [])
            row = next((i for i, free in enumerate(busy) if free <= begin), len(busy))
            row = min(row, MAX_ROWS - 1)
            busy[row : row + 1] = [end]
            self._unit(fact, plugin, begin, end, row + 1)

    def _unit(self, fact: UnitFact, plugin: str, begin: float, end: float, row: int) -> None:
        if fact.topic in DELIVERED:
            _, lines, _ = DELIVERED[fact.topic](fact)
            self._add(plugin, fact.name, begin, end, lines, "unit", row=row)
            return
        lines = [fact.outcome.replace("_", " "), *fact.where]
        lines.insert(1, fact.error)
        if not fact.inner:  # the statements of a part are those of the whole
            sent = counted(fact.statements, "statement")
            lines.append(f"{sent}, {fact.database_time * 1000:.1f} ms in the database")
        if fact.waited >= LONG_WAIT:
            lines.append(f"waited {duration_text(fact.waited)} for a connection")
        if fact.attempt > 1:
            lines.append(f"attempt {fact.attempt}")
        states: dict[str, ItemState] = {**dict.fromkeys(_WELL, "done"), "rolled_back": "warned"}
        state = states.get(fact.outcome, "failed")
        self._add(plugin, fact.name, begin, end, lines, "unit", state, row)

    def _warning(self, fact: UnitFact) -> None:
        at = fact.at - self.picture.began
        lines = [fact.method, fact.error or fact.reason, *fact.where, *fact.differences]
        lines += [*fact.settings, waiting(fact) if fact.oldest else ""]
        lines += [f"held by {holder}" for holder in fact.holders]
        name = MOMENTS[fact.topic](fact) if fact.topic in MOMENTS else fact.topic
        state: ItemState = "done" if fact.topic in BACK else "warned"
        self._add(_lane(fact), name, at, at, lines, state=state)

    def _add(
        self,
        lane: str,
        name: str,
        begin: float,
        end: float,
        lines: Iterable[str],
        kind: Kind = "moment",
        state: ItemState = "done",
        row: int = 0,
    ) -> None:
        index = self.lane(lane)
        self.picture.lanes[index].rows = max(self.picture.lanes[index].rows, row)
        begin = round(max(begin, 0), 6)
        item = Item(
            lane=index,
            row=row,
            kind=kind,
            state=state,
            begin=begin,
            end=round(max(end, begin), 6),
            name=printable(name),
            lines=tuple(printable(line) for line in lines if line),
        )
        self.picture.items.append(item)


def _went_well(fact: UnitFact) -> bool:
    return fact.outcome in _WELL or fact.topic in DELIVERED


def _lane(fact: UnitFact) -> str:
    return vocabulary.DELIVERY if fact.is_of_delivery else fact.plugin or ELSEWHERE
