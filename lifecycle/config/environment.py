"""What the environment says of a section: `APP__NAME` for the key `name` of `[app]`."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final, Literal

from lifecycle.errors import ConfigError

Kind = Literal["text", "number", "truth", "list"]

#: How alike a variable must be to a key's to be taken for a misspelling of it. `APP__DOMAIN` and
#: whatever else the bot's own settings are called is left alone.
_ALIKE: Final = 0.75
_TRUTHS: Final = {"true": True, "1": True, "false": False, "0": False}
#: What a text becomes, and what it should have been.
_KINDS: Final[dict[Kind, tuple[Callable[[str], Any], str]]] = {
    "text": (str, "a text"),
    "number": (float, "a number"),
    "truth": (lambda text: _TRUTHS[text.lower()], "true or false"),
    "list": (json.loads, 'a list in JSON, as ["db_manager"]'),
}


def environment(section: str, keys: Mapping[str, Kind]) -> dict[str, Any]:
    """Return the keys of a section that the environment sets.

    Args:
        section: Name of the section.
        keys: Its keys, each with the kind of its value.

    Raises:
        ConfigError: A variable has a wrong value, or looks like a misspelt one.
    """
    prefix = f"{section.upper()}__"
    known = {key.upper(): key for key in keys}
    found: dict[str, Any] = {}
    for variable, text in os.environ.items():
        if not variable.upper().startswith(prefix):
            continue
        end = variable.upper().removeprefix(prefix)
        if end in known:
            found[known[end]] = _value(variable, keys[known[end]], text)
        else:
            _refuse_misspelt(variable, end, prefix, known)
    return found


def _refuse_misspelt(variable: str, end: str, prefix: str, known: Iterable[str]) -> None:
    if meant := get_close_matches(end, known, 1, _ALIKE):
        raise ConfigError(
            f"environment variable {variable}: did you mean {prefix}{meant[0]}? There are: "
            f"{', '.join(prefix + each for each in known)}"
        )


def _value(variable: str, kind: Kind, text: str) -> Any:
    convert, said = _KINDS[kind]
    try:
        return convert(text)
    except (LookupError, ValueError, RecursionError):
        raise ConfigError(f"environment variable {variable}: is not {said}") from None
