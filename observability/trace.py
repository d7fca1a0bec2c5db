"""Shows what happened in a run of the bot, and says whether it ended well."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from lifecycle.errors import JournalError, nearest
from lifecycle.events import Event
from lifecycle.journal import JournalEntry
from lifecycle.journal_file import Run
from lifecycle.journal_reader import JournalReader
from lifecycle.printable import printable, printable_json
from observability.recorded import add_run_arguments, find_run, is_live, open_journal
from observability.story.outcome import Outcome, failures, outcome
from observability.story.unit_log import UnitFact, units_path
from observability.story.unit_reader import UnitTail
from observability.views.trace_text import TraceText

#: Seconds between two looks at the journal.
INTERVAL: Final = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `db-manager trace`."""
    add_run_arguments(parser)
    parser.add_argument("--follow", action="store_true", help="go on until the run ends")
    parser.add_argument("--plugin", metavar="NAME", help="only what is about this plugin")
    parser.add_argument(
        "--units",
        action="store_true",
        help="every unit of work, also those that simply committed",
    )
    parser.add_argument("--json", action="store_true", help="one object a line, for machines")
    parser.epilog = (
        "Exit code: 0 when the run ended well, or runs and nothing has failed; 1 when something "
        "failed or the process died; 2 when there is no such run."
    )


def run(options: argparse.Namespace) -> int:
    """Show a run; see `cli.Command`."""
    with open_journal(options) as reader:
        number = find_run(reader, options.run).run
        text = None
        if not options.json:
            text = TraceText(colours=_has_colours(), follow=options.follow, units=options.units)
        for whole in _looks(reader, number, follow=options.follow):
            look = whole.about(options.plugin) if options.plugin else whole
            if text is None:
                _write(*(_as_dict(each) for each in look.entries))
                if options.units:
                    _write(*(msgspec.to_builtins(each) for each in look.units))
            else:
                _write(*text.lines(look.head, look.entries, look.units))
        ended = outcome(look.history, look.head, live=look.live)
        if text is None:
            _write({"run": number, "outcome": ended, **msgspec.structs.asdict(look.head)})
        else:
            _write(*text.verdict(look.head, look.history, ended, look.recorded))
    return int(ended in {Outcome.FAILED, Outcome.DIED} or bool(failures(look.history)))


class _Look(NamedTuple):
    """What the journal says at one moment.

    Args:
        head: The run.
        live: True when a process writes it now.
        history: All entries of it.
        entries: Those that are new, and are to be shown.
        recorded: All that is recorded about its units of work.
        units: What is new of that.
    """

    head: Run
    live: bool
    history: list[JournalEntry]
    entries: list[JournalEntry]
    recorded: list[UnitFact]
    units: list[UnitFact]

    def about(self, plugin: str) -> "_Look":
        """Return what is about a plugin.

        Raises:
            JournalError: No event is about it, and none can be any more.
        """
        known = {getattr(each.event, "plugin", "") for each in self.history} - {""}
        if plugin not in known and not self.live:
            raise JournalError(
                f"run {self.head.run} has no plugin {plugin!r}{nearest(plugin, known)}; there "
                f"are: {', '.join(map(printable, sorted(known))) or 'none'}"
            )
        return self._replace(
            entries=[each for each in self.entries if _plugin(each.event) == plugin],
            recorded=[each for each in self.recorded if each.plugin == plugin],
            units=[each for each in self.units if each.plugin == plugin],
        )


def _plugin(event: Event) -> str | None:
    return getattr(event, "plugin", None) or event.correlation.plugin


def _looks(reader: JournalReader, number: int, *, follow: bool) -> Iterator[_Look]:
    """Look at a run until it is over; once, unless it is to be followed."""
    head, version = find_run(reader, number), None
    history: list[JournalEntry] = []
    recorded: list[UnitFact] = []
    with UnitTail(units_path(reader.path), number) as tail:
        while True:
            # First of all: what a process wrote before it went must be read after it went.
            live = is_live(reader, number)
            seen, units = len(history), tail.read()
            recorded += units
            latest = reader.version()
            if latest != version:
                version, head = latest, find_run(reader, number)
                history = list(reader.entries(number))
            yield _Look(head, live, history, history[seen:], recorded, units)
            if not (follow and live):
                return
            time.sleep(INTERVAL)


def _as_dict(entry: JournalEntry) -> dict[str, Any]:
    return {"run": entry.run, "seq": entry.seq, **entry.event.as_dict()}


def _write(*lines: str | dict[str, Any]) -> None:
    for line in lines:
        text = line if isinstance(line, str) else printable_json(msgspec.json.encode(line).decode())
        sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _has_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
