"""Shows what happened in a run of the bot, and says whether it ended well."""

import argparse
import os
import sys
from typing import Any, Final

import msgspec

from lifecycle.journal import JournalEntry
from lifecycle.printable import printable_json
from observability.commands.which_run import add_run_arguments, open_journal
from observability.story.follow import follow
from observability.story.outcome import Outcome, failures, outcome
from observability.story.runs import find_run
from observability.story.unit_log import units_path
from observability.views.trace_text import TraceText

NO_RECORD: Final = "  units were not recorded: no section [observability], or units = false in it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `db-manager trace`."""
    add_run_arguments(parser)
    parser.add_argument("--follow", action="store_true", help="keep printing until the run ends")
    parser.add_argument("--plugin", metavar="NAME", help="show this plugin only")
    parser.add_argument(
        "--units",
        action="store_true",
        help="show every unit of work, not only failed and slow ones",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.epilog = (
        "Exit code: 0 if nothing has failed, 1 if something failed or the process died, 2 if "
        "there is no such run."
    )


def run(options: argparse.Namespace) -> int:
    """Show a run; see `cli.Command`."""
    with open_journal(options) as (reader, name):
        number = find_run(reader, options.run).run
        text = None
        if not options.json:
            text = TraceText(
                colours=_has_colours(), follow=options.follow, units=options.units, name=name
            )
        for whole in follow(reader, number, until_the_end=options.follow):
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
            if options.units and not units_path(reader.path).exists():
                _write(NO_RECORD)
    return int(ended in {Outcome.FAILED, Outcome.DIED} or bool(failures(look.history)))


def _as_dict(entry: JournalEntry) -> dict[str, Any]:
    return {"run": entry.run, "seq": entry.seq, **entry.event.as_dict()}


def _write(*lines: str | dict[str, Any]) -> None:
    for line in lines:
        text = line if isinstance(line, str) else printable_json(msgspec.json.encode(line).decode())
        sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _has_colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
