"""Draws the picture that opens the READMEs: a chat with the demo's bot, and the events beside it.

`make pictures` runs it: the bot of examples/notes_bot chats against a local Telegram, and three
parts of that run are drawn, in light and dark, with English and Russian captions.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, redirect_stderr
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PICTURES: Final = ROOT / "docs" / "pictures"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for examples, when this is run as a program

from examples.notes_bot.__main__ import CONFIG, offline, older  # noqa: E402 -- found by the line above
from examples.notes_bot.screen import Entry  # noqa: E402 -- the same
from lifecycle import Application  # noqa: E402 -- the same

CAPTIONS: Final = {
    "": (
        "The answer comes after the commit",
        "A handler that fails leaves nothing behind",
        "A stop waits for the handler, and only then takes its database away",
    ),
    ".ru": (
        "Ответ приходит после коммита",
        "Упавший обработчик ничего после себя не оставляет",
        "Остановка дожидается обработчика и только потом забирает у него базу",  # noqa: RUF001 -- Russian
    ),
}
#: Where each part begins (what a user says), and before what it ends.
PARTS: Final = (("/note milk", "/note bread"), ("/boom", "/list"), ("/slow", "plugin.unloaded"))
LEFT_OUT: Final = {"database.drained", "service.withdrawn"}

WIDTH: Final = 1000
CHAT: Final = (24, 324)  # left and right edge of the chat
TIME, TOPIC, WHAT = 400, 412, 540  # time ends here, topic and text begin here
ROW: Final = 28
BUBBLE: Final = 26
LETTER: Final = 7.0  # width of a letter in a bubble, in pixels, a little more than it is


@dataclass(frozen=True)
class Theme:
    """Colours of a picture.

    Args:
        page: Behind everything.
        line: Frames and separators.
        text: What is read first.
        dim: What is read last.
        mine: Bubbles of people.
        theirs: Bubbles of the bot.
        good: A commit, a step that went well.
        bad: A rollback.
        stop: A signal and what follows from it.
    """

    page: str
    line: str
    text: str
    dim: str
    mine: str
    theirs: str
    good: str
    bad: str
    stop: str


THEMES: Final = {
    "light": Theme(
        page="#ffffff",
        line="#d1d9e0",
        text="#1f2328",
        dim="#6e7781",
        mine="#ddf4ff",
        theirs="#f1f3f5",
        good="#1a7f37",
        bad="#cf222e",
        stop="#9a6700",
    ),
    "dark": Theme(
        page="#0d1117",
        line="#3d444d",
        text="#e6edf3",
        dim="#8b949e",
        mine="#12395c",
        theirs="#21262d",
        good="#3fb950",
        bad="#f85149",
        stop="#d29922",
    ),
}


def run() -> list[Entry]:
    """Run the demo's bot once, in a folder that is thrown away.

    Returns:
        What was said and what happened, in order.
    """
    for variable in [name for name in os.environ if name.upper().startswith("DATABASE__")]:
        del os.environ[variable]  # they would win over config.toml
    entries: list[Entry] = []
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        config = Path(folder, "config.toml")
        shutil.copy(CONFIG, config)
        with Path(folder, "log").open("w", encoding="utf-8") as log, redirect_stderr(log):
            asyncio.run(older(Path(folder, "bot.sqlite3")))
            asyncio.run(offline(Application.from_config(config), entries))
    return sorted(entries, key=lambda entry: entry.at)


def parts(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the parts of a run that are drawn."""
    said = [entry.what for entry in entries]
    found = []
    for begin, end in PARTS:
        first = said.index(begin)
        last = next(i for i, entry in enumerate(entries) if i > first and end in _names(entry))
        found.append([entry for entry in entries[first:last] if entry.who not in LEFT_OUT])
    return found


def draw(drawn: Sequence[Sequence[Entry]], captions: Sequence[str], theme: Theme) -> str:
    """Return the picture as SVG.

    Args:
        drawn: The parts of the run.
        captions: A sentence for each part.
        theme: Colours.
    """
    body: list[str] = []
    y = 8
    for caption, part in zip(captions, drawn, strict=True):
        if body:
            body.append(f'<path d="M24 {y}H{WIDTH - 24}" stroke="{theme.line}"/>')
        body.append(_text(24, y + 32, caption, theme.text, "caption"))
        rows, y = _rows(part, y + 48, drawn[0][0].at, theme)
        body += rows
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img">
<title>{escape("; ".join(captions))}</title>
<style>
text {{ font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre }}
.caption {{ font: 600 15px system-ui, "Segoe UI", Helvetica, Arial, sans-serif }}
.chat {{ font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif }}
.end {{ text-anchor: end }}
</style>
<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{y - 1}" rx="10" \
fill="{theme.page}" stroke="{theme.line}"/>
{chr(10).join(body)}
</svg>
"""


def _names(entry: Entry) -> tuple[str, str]:
    return entry.who, entry.what


def _rows(part: Sequence[Entry], y: int, begin: float, theme: Theme) -> tuple[list[str], int]:
    """Return a part of the run, drawn from *y* down, and where it ends.

    What was said stands on the left, what happened on the right, each below what was before it.
    """
    drawn: list[str] = []
    left = right = y
    for entry in part:
        if entry.side == "chat" and entry.who != "signal":
            left = max(left, right)
            drawn += _said(entry, left, theme)
            right = max(right, left)
            left += ROW
        else:
            right = max(right, left - ROW)
            drawn += _happened(entry, right, begin, theme)
            right += ROW
    return drawn, max(left, right) + 12


def _said(entry: Entry, y: int, theme: Theme) -> Iterator[str]:
    """Yield a bubble: people on the right of the chat, the bot on the left."""
    is_bot = entry.who.strip() == "bot"
    width = round(len(entry.what) * LETTER) + 24
    x = CHAT[0] if is_bot else CHAT[1] - width
    fill = theme.theirs if is_bot else theme.mine
    yield f'<rect x="{x}" y="{y}" width="{width}" height="{BUBBLE}" rx="13" fill="{fill}"/>'
    yield _text(x + 12, y + 18, entry.what, theme.text, "chat")
    if not is_bot:
        yield _text(x - 8, y + 18, entry.who, theme.dim, "chat end")


def _happened(entry: Entry, y: int, begin: float, theme: Theme) -> Iterator[str]:
    """Yield a line of the trace; a signal is one, too."""
    colours = {"green": theme.good, "red": theme.bad, "yellow": theme.stop, "dim": theme.dim}
    colour = colours.get(entry.style, theme.text)
    signal, _, when = entry.what.partition(", ")
    who, what = (signal, when) if entry.who == "signal" else (entry.who, entry.what)
    yield _text(TIME, y + 18, f"{entry.at - begin:.2f}", theme.dim, "end")
    yield _text(TOPIC, y + 18, who, colour)
    yield _text(WHAT, y + 18, what, colour)


def _text(x: int, y: int, text: str, colour: str, kind: str = "") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}" fill="{colour}"{css}>{escape(text)}</text>'


def main(folder: Path) -> None:
    """Write the pictures into a folder."""
    drawn = parts(run())
    for language, captions in CAPTIONS.items():
        for name, theme in THEMES.items():
            path = folder / f"demo-{name}{language}.svg"
            path.write_text(draw(drawn, captions, theme), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else PICTURES)
