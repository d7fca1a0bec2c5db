"""Plays the nights and shows the mornings; with `--write FILE` it keeps a document true."""

import asyncio
import re
import sys
from pathlib import Path

from examples.night.office import Answer
from examples.night.scenes import play_all

BLOCK = re.compile(
    r"(?P<marker><!-- shown: (?P<night>[a-z-]+) (?P<number>\d+) -->)\n"
    r"```text\n(?P<text>.*?)```",
    re.DOTALL,
)


def main() -> None:
    """Play every night."""
    shown = asyncio.run(play_all())
    if sys.argv[1:2] == ["--write"]:
        path = Path(sys.argv[2])
        path.write_text(rendered(path.read_text("utf-8"), shown), "utf-8")
        return
    for name, answers in shown.items():
        print(f"── The bot {name.replace('-', ' ')} ──\n")
        print("\n".join(each.terminal() for each in answers))


def rendered(document: str, shown: dict[str, list[Answer]]) -> str:
    """Return a document with what the commands show.

    A block that differs in numbers only is left as it is.

    Args:
        document: The text, with a marker `<!-- shown: was-killed 1 -->` before each block.
        shown: What the commands of each night showed.
    """

    def replace(match: re.Match[str]) -> str:
        text = shown[match["night"]][int(match["number"]) - 1].terminal()
        if masked(text) == masked(match["text"]):
            return match[0]
        return f"{match['marker']}\n```text\n{text}```"

    return BLOCK.sub(replace, document)


def masked(text: str) -> str:
    """Return *text* without what is another one each time: numbers, and the columns they make."""
    text = re.sub(r"\d[\d.:-]*Z?( (ms|s|min \d+ s)\b)?", "#", text)
    return re.sub(r" +", " ", text)


if __name__ == "__main__":
    main()
