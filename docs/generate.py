"""Writes the parts of the documents that say what the code says.

Run `make docs` after a change of an event, a key or a transition. With `--check` it writes nothing,
and fails when a document is not up to date.
"""

import ast
import inspect
import json
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import db_manager.events
import lifecycle.events
from db_manager.config import DatabaseConfig
from db_manager.delivery.delivery_config import DeliveryConfig
from lifecycle import Event, to_mermaid
from lifecycle.event import EVENT_TYPES
from observability.config import ObservabilityConfig

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    *("CONTRIBUTING.md", "docs/architecture.md", "docs/configuration.md", "docs/delivery.md"),
    "docs/events.md",
)
ROOMS = ("lifecycle", "db_manager", "observability")
PACKAGES = {"lifecycle": lifecycle.events, "db_manager": db_manager.events}

_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TYPES = {float: "number", int: "integer", str: "text", bool: "true or false", type(None): "null"}


def rendered(text: str) -> str:
    """Return a document with its generated parts as they should be.

    Args:
        text: The document as it is.
    """
    parts: dict[str, Callable[[], str]] = {
        "database": lambda: _keys(DatabaseConfig),
        "delivery": lambda: _keys(DeliveryConfig),
        "observability": lambda: _keys(ObservabilityConfig),
        "topics": topics,
        "events": events,
        "states": states,
        "directions": directions,
        "rooms": rooms,
    }
    return _PART.sub(lambda part: f"{part[1]}\n{parts[part[2]]()}\n\n{part[3]}", text)


def catalogue() -> Iterator[type[Event]]:
    """Yield the events of the packages, in the order of their definition."""
    for package in PACKAGES:
        for event in EVENT_TYPES.values():
            if event.__module__.startswith(f"{package}."):
                yield event


def topics() -> str:
    """Return the table of the topics, each with the summary of its event."""
    lines = ["| topic | when |", "| --- | --- |"]
    lines += [f"| `{event.topic}` | {_summary(event)} |" for event in catalogue()]
    return "\n".join(lines)


def states() -> str:
    """Return the state diagram of a plugin."""
    return f"```mermaid\n{to_mermaid()}```"


def events() -> str:
    """Return a section for each event."""
    return "\n\n".join(_section(event) for event in catalogue())


def directions() -> str:
    """Return who may import whom, from the top down: the packages, and the rooms of each."""
    packages = " > ".join(_layers(None)).replace(" | ", ", ")
    lines = [packages] + [
        f"{package}: {' > '.join(_layers(package)).replace(' | ', ', ')}"
        for package in ROOMS
        if _layers(package)
    ]
    wrapped = [textwrap.fill(line, 92, subsequent_indent="    ") for line in lines]
    return "\n".join(["```text", *wrapped, "```"])


def rooms() -> str:
    """Return a table for each package: its rooms, from the top down, with what each is."""
    tables = []
    for package in ROOMS:
        sentences = {path.stem: _sentence(path) for path in (ROOT / package).glob("[!_]*.py")}
        sentences |= {path.parent.name: _sentence(path) for path in _fronts(package)}
        order = re.findall(r"\w+", " ".join(_layers(package))) or sorted(sentences)
        lines = [f"### `{package}`", "", "| room | what it is |", "| --- | --- |"]
        lines += [f"| `{room}` | {sentences[room]} |" for room in order if room in sentences]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _layers(package: str | None) -> list[str]:
    """Return the layers of a package, or of the packages, as import-linter holds them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    containers = None if package is None else [package]
    for contract in project["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers" and contract.get("containers") == containers:
            return list(contract["layers"])
    return []


def _fronts(package: str) -> Iterator[Path]:
    return (ROOT / package).glob("*/__init__.py")


def _sentence(file: Path) -> str:
    """Return the first paragraph of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")


def _keys(section: type[BaseModel]) -> str:
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for name, field in section.model_fields.items():
        default = _default(field.get_default(call_default_factory=True))
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(lines)


def _default(value: Any) -> str:
    """Return a default as TOML writes it."""
    if value is None or value is PydanticUndefined:
        return ""
    return f"`{json.dumps(value) if value != {} else '{}'}`"


def _section(event: type[Event]) -> str:
    lines = [f"### `{event.topic}`", "", _summary(event), ""]
    described: dict[str, str] = {}
    for base in reversed(event.__mro__):
        described |= _described(base)
    own = [f for f in msgspec.structs.fields(event) if f.name not in {"at", "correlation"}]
    if own:
        lines += ["| field | type | |", "| --- | --- | --- |"]
        lines += [f"| `{f.name}` | {_type(f.type)} | {described[f.name]} |" for f in own]
        lines.append("")
    facts = [
        f"class `{event.__module__.partition('.')[0]}.events.{event.__qualname__}`",
        f"level {_level(event)}",
    ]
    facts += [
        f"{name} {', '.join(f'`{field}`' for field in fields)}"
        for name in ("labels", "measures")
        if (fields := getattr(event, name))
    ]
    return "\n".join([*lines, f"{'; '.join(facts)}."])


def _level(event: type[Event]) -> str:
    own = getattr(event, "log_level", None)
    varying = inspect.getdoc(own) if own is not None else None  # None has a docstring since 3.13
    return f"`{event.level}`" + (f" ({varying.rstrip('.')})" if varying else "")


def _summary(event: type[Event]) -> str:
    return " ".join((inspect.getdoc(event) or "").partition("\n\n")[0].split())


def _described(event: type) -> dict[str, str]:
    """Return the section Args of a docstring: each field with its text."""
    text = inspect.cleandoc(event.__doc__ or "").partition("Args:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def _type(hint: Any) -> str:
    if hint in _TYPES:
        return _TYPES[hint]
    if get_origin(hint) is tuple:
        return f"list of {_type(get_args(hint)[0])}"
    choices = get_args(hint)
    return " or ".join(
        f'`"{choice}"`' if isinstance(choice, str) else _type(choice) for choice in choices
    )


def main(*, check: bool) -> str | None:
    """Write the documents, or only compare them.

    Args:
        check: Write nothing.

    Returns:
        What is out of date, if *check* finds anything.
    """
    stale = []
    for document in DOCUMENTS:
        path = ROOT / document
        text = path.read_text(encoding="utf-8")
        if rendered(text) != text:
            stale.append(document)
            if not check:
                path.write_text(rendered(text), encoding="utf-8")
    return f"not up to date, run `make docs`: {', '.join(stale)}" if check and stale else None


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
