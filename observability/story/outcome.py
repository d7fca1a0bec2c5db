"""How a run ended, and what failed in it."""

from collections.abc import Iterable
from enum import StrEnum

from lifecycle.events import AppStopped, PluginFailed
from lifecycle.journal import JournalEntry, Run


class Outcome(StrEnum):
    """How a run ended."""

    WELL = "well"
    FAILED = "failed"
    DIED = "died"
    RUNNING = "running"


def outcome(entries: Iterable[JournalEntry], run: Run | None = None, *, live: bool) -> Outcome:
    """Return how a run ended.

    Args:
        entries: Its history.
        run: What the journal says about it; without it a run has ended when no plugin is loaded.
        live: True while a process is writing it.

    Raises:
        IllegalHistoryError: *run* is not given, and no run can have produced these entries.
    """
    entries = list(entries)
    if run is not None:
        ended = run.ended_at is not None
    else:
        from lifecycle.plugins.machine import State  # noqa: PLC0415 -- only needed here
        from lifecycle.plugins.replay import replay  # noqa: PLC0415 -- only needed here

        holding_nothing = (State.UNLOADED, State.FAILED)
        ended = all(state in holding_nothing for state in replay(entries).values())
    if not ended:
        return Outcome.RUNNING if live else Outcome.DIED
    return Outcome.FAILED if failures(entries) else Outcome.WELL


def failures(entries: Iterable[JournalEntry]) -> list[str]:
    """Return what failed in a run, one line each.

    Args:
        entries: Its history.
    """
    lines = []
    for event in (entry.event for entry in entries):
        if isinstance(event, PluginFailed):
            lines.append(f"plugin {event.plugin!r} failed in {event.hook}: {event.error}")
        elif isinstance(event, AppStopped):
            # A failed hook has its own event.
            lines += [each for each in event.errors if not each.startswith("PluginFailedError:")]
    return lines
