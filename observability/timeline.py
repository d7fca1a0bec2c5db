"""Renders a run as an HTML page: one file, which needs no network."""

import base64
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Final

import msgspec

from lifecycle.errors import counted
from lifecycle.journal import JournalEntry, Run
from lifecycle.printable import printable
from observability.story.outcome import Outcome, failures, outcome
from observability.story.texts import delivered, duration_text, summary
from observability.story.unit_log import UnitFact
from observability.views.picture import Item, Picture, draw

_STYLE: Final = re.compile("<style>(.*?)</style>", re.DOTALL)
_SCRIPT: Final = re.compile("<script>(.*?)</script>", re.DOTALL)
#: A dot or a slash inside of a name or a path, not inside of a number.
_JOINT: Final = re.compile(r"(?<=\w)[./](?=[^\W\d])")
#: Rows of the table at most; the picture has the rest.
ROWS: Final = 1000
_SAYS: Final = {
    Outcome.WELL: "ended well",
    Outcome.FAILED: "ended with failures",
    Outcome.DIED: "died: the process ended without a stop",
    Outcome.RUNNING: "is running",
}


def write(
    entries: Iterable[JournalEntry],
    path: str | os.PathLike[str],
    units: Iterable[UnitFact] = (),
    *,
    run: Run | None = None,
    live: bool = False,
    name: str = "",
) -> Path:
    """Write the page of one run.

    Args:
        entries: History of the run; of several runs the last one is shown.
        path: The file; an existing one is replaced.
        units: The records of its units.
        run: What the journal says about the run; needs a journal on disk.
        live: True while a process is writing it.
        name: Name of the process, when several share a config.toml.

    Returns:
        The file.

    Raises:
        ValueError: There are no entries.
        OSError: The file cannot be written.
    """
    file = Path(path)
    file.write_text(render(entries, units, run=run, live=live, name=name), encoding="utf-8")
    return file


def render(
    entries: Iterable[JournalEntry],
    units: Iterable[UnitFact] = (),
    *,
    run: Run | None = None,
    live: bool = False,
    name: str = "",
) -> str:
    """Return the page of one run; the arguments are those of `write`.

    Raises:
        ValueError: There are no entries.
    """
    history = list(entries)
    if not history and run is None:
        raise ValueError("there is nothing to show: no entries")
    number = run.run if run is not None else history[-1].run
    history = [each for each in history if each.run == number]
    facts = list(units)
    began = run.started_at if run is not None else history[0].event.at
    ended = outcome(history, run, live=live)
    picture = draw(history, facts, began=began, ended_at=run.ended_at if run else None)
    template = files(__package__).joinpath("timeline.html").read_text(encoding="utf-8")
    process = f", process {run.pid}" if run is not None else ""
    whose = f" of {printable(name)}" if name else ""
    moment = f"{datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M:%S} UTC"
    parts = {
        "policy": escape(_policy(template)),
        "title": escape(f"Run {number}{whose} {_SAYS[ended]}"),
        "outcome": escape(ended),
        "when": escape(f"Began {moment}, lasted {duration_text(picture.length)}{process}"),
        "failures": "".join(f"<li>{_broken(printable(each))}</li>" for each in failures(history)),
        "units": escape(_counts(facts, picture)),
        "rows": "".join(_row(each, picture) for each in picture.listed()[:ROWS]),
        "data": _embedded(msgspec.json.encode(picture)),
    }
    return re.sub("<!--([a-z]+)-->", lambda match: parts[match[1]], template)


def _policy(template: str) -> str:
    """Return the content security policy: only the page's own script and style."""

    def digest(pattern: re.Pattern[str]) -> str:
        (text,) = pattern.findall(template)
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest(_SCRIPT)}'; style-src 'sha256-{digest(_STYLE)}'"
    )


def _embedded(data: bytes) -> str:
    """Return JSON that cannot end its script element, whatever its texts are."""
    text = data.decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _counts(facts: Sequence[UnitFact], picture: Picture) -> str:
    text = " ".join(filter(None, (summary(facts), delivered(facts))))
    if picture.left_out:
        are = "is" if picture.left_out == 1 else "are"
        text += f" {counted(picture.left_out, 'short committed unit')} {are} not drawn."
    return text or "No units of work are recorded for this run."


def _broken(text: str) -> str:
    """Return *text* for the page: inside of a name a line breaks after a dot or a slash only."""
    return _JOINT.sub(r"\g<0><wbr>", escape(text))


def _row(item: Item, picture: Picture) -> str:
    moment = datetime.fromtimestamp(picture.began + item.begin, UTC)
    clock = moment.isoformat(timespec="milliseconds")[11:23]
    took = duration_text(item.end - item.begin) if item.end > item.begin else ""
    lane = picture.lanes[item.lane].name
    details = "".join(f"<br>{_broken(line)}" for line in item.lines)
    return (
        f'<tr class="{escape(item.state)}"><td>{clock}</td><td>{_broken(lane)}</td>'
        f"<td><b>{_broken(item.name)}</b>{details}</td><td>{took}</td></tr>"
    )
