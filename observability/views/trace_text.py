"""The text of a trace: a line for each step, indented below what it belongs to."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from itertools import chain
from typing import Final

from lifecycle.event import Event
from lifecycle.events import (
    AppDrained,
    PluginEvent,
)
from lifecycle.journal import JournalEntry, Run
from lifecycle.printable import printable
from observability import vocabulary
from observability.story.migrations import Migration, Migrations
from observability.story.outcome import Outcome, failures
from observability.story.steps import HookRun, Steps, steps
from observability.story.texts import LONG_WAIT, delivered, duration_text, summary
from observability.story.unit_log import UnitFact
from observability.views.sentences import (
    DELIVERED,
    TOLD,
    TROUBLES,
    Style,
    Told,
    fields_told,
    migrated,
    whose,
)

_COLOURS: Final[dict[Style, str]] = {"red": "31", "green": "32", "yellow": "33"}
_CODES: Final = {"bold": "1", "dim": "2", **_COLOURS}
_LABEL: Final = 26  # width of the column with the step
_DURATION: Final = 13
_INDENT: Final = 2
#: How a step that went well, failed or has no end is marked.
_MARKS: Final = {"done": "", "failed": "✗", "open": "…"}
_STYLES: Final[dict[str, Style]] = {"done": "", "failed": "red", "open": "yellow"}
#: Seconds from which a unit that committed gets a line, too.
SLOW_UNIT: Final = 1.0


class TraceText:
    """Turns the entries of one run into lines, as they arrive.

    Args:
        colours: True on a terminal.
        follow: Show a hook when it begins, too: it may never end.
        units: Show every unit, including those that simply committed.
        name: Name of the process, empty when it has none.
    """

    def __init__(
        self, *, colours: bool, follow: bool = False, units: bool = False, name: str = ""
    ) -> None:
        self._colours = colours
        self._follow = follow
        self._units = units
        self._whose = f" of {printable(name)}" if name else ""
        self._slow: set[int] = set()  # units reported as slow that have not ended yet
        self._steps = Steps()
        self._migrations = Migrations()
        #: What happened to the tables in a hook that has not ended, by plugin.
        self._held: dict[str, list[Migration | UnitFact]] = {}
        self._day: date | None = None

    def lines(
        self, head: Run, entries: Sequence[JournalEntry], units: Sequence[UnitFact] = ()
    ) -> Iterator[str]:
        """Yield the lines for the next entries and units, in the order of time.

        Args:
            head: The run.
            entries: Its next entries.
            units: The next records of its units.
        """
        if self._day is None:
            began = _moment(head.started_at)
            self._day = began.date()
            process = f"{self._whose}, process {head.pid}"
            yield self._paint(
                f"Run {head.run}{process}, began {began:%Y-%m-%d %H:%M:%S} UTC", "bold"
            )
            yield ""
        # Each keeps its own order, even if the clock was set back.
        happened: tuple[Iterable[Event | UnitFact], ...] = ((e.event for e in entries), units)
        for each in heapq.merge(*happened, key=lambda each: each.at):
            if isinstance(each, UnitFact):
                yield from self._recorded(each)
                continue
            if self._follow and isinstance(each, PluginEvent) and each.topic.endswith("ing"):
                trigger = each.topic.removeprefix("plugin.")
                yield from self._line(each.at, 1, f"{trigger} {each.plugin} …", style="dim")
            step = self._steps.feed(each)
            if isinstance(step, HookRun):
                yield from self._hook(step)
            elif step is not None:
                yield from self._event(step, depth=1 if isinstance(step, PluginEvent) else 0)

    def verdict(
        self,
        head: Run,
        entries: Sequence[JournalEntry],
        ended: Outcome,
        units: Sequence[UnitFact] = (),
    ) -> Iterator[str]:
        """Yield the unfinished hooks, and how the run ended.

        Args:
            head: The run.
            entries: All of its entries.
            ended: How it ended.
            units: All records of its units.
        """
        for migration in self._migrations.open():
            self._held.setdefault(migration.plugin, []).append(migration)
        for hook in self._steps.open():
            yield from self._hook(hook)
        for left in chain.from_iterable(self._held.values()):
            yield from self._of_the_tables(left, depth=1)
        seen = [each[-1].at for each in ([e.event for e in entries], units) if each]
        now = head.ended_at or max(seen, default=head.started_at)
        yield ""
        yield self._outcome(head, ended, duration_text(max(now - head.started_at, 0)))
        yield from self._unfinished(entries, ended, units)
        for failure in failures(entries):
            yield f"  {printable(failure)}"
        for text in filter(None, (summary(units), delivered(units))):
            yield f"  {printable(text)}"

    def _outcome(self, head: Run, ended: Outcome, took: str) -> str:
        run = f"Run {head.run}"
        texts: dict[Outcome, tuple[Style, str]] = {
            Outcome.WELL: ("green", f"✓ {run} ended well after {took}."),
            Outcome.FAILED: ("red", f"✗ {run} ended with failures after {took}."),
            Outcome.RUNNING: ("green", f"▶ {run} is running in process {head.pid}."),
            Outcome.DIED: (
                "red",
                f"✗ {run} died: process {head.pid} ended without a stop; last event after {took}.",
            ),
        }
        style, text = texts[ended]
        return self._paint(text, style)

    def _unfinished(
        self, entries: Sequence[JournalEntry], ended: Outcome, units: Sequence[UnitFact]
    ) -> Iterator[str]:
        """Yield what was unfinished when the run died, or is unfinished now."""
        was = "was" if ended is Outcome.DIED else "is"
        if ended is Outcome.DIED and (left := _last_steps(entries)):
            yield f"  its plugins: {left}"
        for step in steps(entry.event for entry in entries):
            if isinstance(step, HookRun) and step.outcome == "open":
                yield f"  plugin {step.plugin!r} {was} in its {step.hook} hook"
        for migration in self._migrations.open():
            which = printable(f"migration {migration.revision} of {migration.owner!r}")
            yield f"  {which} {was} being applied"
        if ended is Outcome.DIED:
            for unit in sorted(self._slow):
                (*_, where) = (each.where for each in units if each.unit == unit)
                yield f"  {', '.join((f'unit {unit} was open', *map(printable, where)))}"

    def _hook(self, hook: HookRun) -> Iterator[str]:
        label = f"{hook.hook:<7} {hook.plugin}"
        detail = "unfinished" if hook.outcome == "open" else hook.error
        mark, style = _MARKS[hook.outcome], _STYLES[hook.outcome]
        yield from self._line(hook.begun, 1, label, hook.duration, detail, mark=mark, style=style)
        happened = (hook.facts, self._held.pop(hook.plugin, ()))
        for fact in heapq.merge(*happened, key=lambda each: each.at):
            if isinstance(fact, Event):
                yield from self._event(fact, depth=2)
            else:
                yield from self._of_the_tables(fact, depth=2, said=detail)
        for error in hook.cleanup_errors:
            yield from self._line(None, 2, "cleanup", None, error, mark="✗", style="red")

    def _event(self, event: Event, *, depth: int) -> Iterator[str]:
        tell = TOLD.get(type(event), fields_told)
        label, detail, style = tell(event)
        duration: float | None = getattr(event, "duration", None)
        mark = "!" if style == "yellow" else ""
        yield from self._line(event.at, depth, label, duration, detail, mark=mark, style=style)
        for update in event.cancelled if isinstance(event, AppDrained) else ():
            yield from self._line(None, 1, "cancelled", None, update, mark="!", style="yellow")

    def _recorded(self, fact: UnitFact) -> Iterator[str]:
        """Yield the lines for a record; those of tables stand below the hook that they are of."""
        if self._follow and fact.topic == vocabulary.MIGRATING:
            label = f"migrating {fact.owner}{fact.on_database} …"
            yield from self._line(fact.at, 2, label, None, fact.revision, style="dim")
        step = self._migrations.feed(fact)
        if isinstance(step, UnitFact) and step.topic != vocabulary.DRIFTED:
            yield from self._unit(step)
        elif step is not None:
            is_part = self._steps.is_open(step.plugin)
            if is_part and not self._follow:
                self._held.setdefault(step.plugin, []).append(step)
            else:
                yield from self._of_the_tables(step, depth=1 + is_part)

    def _of_the_tables(
        self, step: Migration | UnitFact, *, depth: int, said: str = ""
    ) -> Iterator[str]:
        """Yield the lines for a migration, or for tables that differ from the models."""
        if isinstance(step, UnitFact):
            label, _, style = TROUBLES[step.topic](step)
            first, *others = step.differences or ("",)
            yield from self._line(step.at, depth, label, None, first, mark="!", style=style)
            for other in others:
                yield from self._line(None, depth, "", None, other, style=style)
            return
        label, details = migrated(step, said)
        detail = "; ".join(filter(None, details))
        mark, style = _MARKS[step.outcome], _STYLES[step.outcome]
        yield from self._line(step.at, depth, label, step.duration, detail, mark=mark, style=style)

    def _unit(self, fact: UnitFact) -> Iterator[str]:
        """Yield the lines for a unit, unless it simply committed."""
        if fact.topic == vocabulary.UNIT_SLOW:
            self._slow.add(fact.unit)
        told: Callable[[UnitFact], Told | None] | None = TROUBLES.get(fact.topic)
        if self._units and fact.topic in DELIVERED:
            told = DELIVERED[fact.topic]
        if fact.topic in {vocabulary.UNIT_CLOSE, vocabulary.UNIT_LEAVE}:
            told = self._closed
        said = told(fact) if told is not None else None
        if said is None:
            return
        label, details, style = said
        detail = "; ".join(filter(None, details))
        mark = "!" if style == "yellow" else ""
        yield from self._line(fact.at, 1, label, fact.took or None, detail, mark=mark, style=style)
        for holder in fact.holders:
            yield from self._line(None, 2, f"held by {holder}", style="yellow")

    def _closed(self, fact: UnitFact) -> Told | None:
        remarkable = self._is_remarkable(fact)
        if not remarkable and not self._units:
            return None
        details = [fact.outcome.replace("_", " "), *whose(fact)]
        if fact.waited >= LONG_WAIT:
            details.append(f"waited {duration_text(fact.waited)} for a connection")
        return fact.name, details, "yellow" if remarkable else ""

    def _is_remarkable(self, fact: UnitFact) -> bool:
        if fact.inner:
            return fact.outcome != "joined"
        slow = fact.unit in self._slow or fact.duration >= SLOW_UNIT
        self._slow.discard(fact.unit)
        return slow or bool(fact.error) or fact.outcome == "outcome_unknown"

    def _line(
        self,
        at: float | None,
        depth: int,
        label: str,
        duration: float | None = None,
        detail: str = "",
        *,
        mark: str = "",
        style: Style = "",
    ) -> Iterator[str]:
        clock = ""
        if at is not None:
            moment = _moment(at)
            clock = moment.isoformat(timespec="milliseconds")[11:23] + "Z"
            if moment.date() != self._day:
                self._day = moment.date()
                yield self._paint(f"{self._day}", "bold")
        took = "" if duration is None else duration_text(duration)
        indented = " " * (_INDENT * depth) + printable(label)
        text = f"{mark:<2}{indented:<{_LABEL}} {took:>{_DURATION}}  {printable(detail)}".rstrip()
        yield f"{self._paint(f'{clock:<13}', 'dim')}  {self._paint(text, style)}"

    def _paint(self, text: str, style: Style) -> str:
        code = _CODES.get(style) if self._colours and text.strip() else None
        return f"\033[{code}m{text}\033[0m" if code else text


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _last_steps(entries: Iterable[JournalEntry]) -> str:
    """Return the last step of each plugin: the state in which the run left it."""
    last = {
        event.plugin: event.topic.removeprefix("plugin.")
        for event in (entry.event for entry in entries)
        if isinstance(event, PluginEvent) and event.topic.startswith("plugin.")
    }
    return ", ".join(f"{printable(plugin)} {step}" for plugin, step in last.items())
