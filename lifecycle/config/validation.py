"""A section as its owner's model makes it, or one line for each fault: which key, and the fix."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from lifecycle.errors import ConfigError, WiringError, nearest

Config = Mapping[str, Any]

#: What a model says of a number that is out of range, as pydantic calls it.
_OUT_OF_RANGE = frozenset(
    {
        "finite_number",
        "greater_than",
        "greater_than_equal",
        "int_parsing_size",
        "less_than",
        "less_than_equal",
    }
)

#: What is said of a bound, by the name that pydantic gives it.
_BOUNDS: Final = {"ge": "{} or more", "gt": "above {}", "le": "up to {}", "lt": "below {}"}
#: Characters of a number that are shown.
_LONGEST_NUMBER: Final = 40


def section_of(config: Config, name: str) -> Mapping[str, Any]:
    """Return the section *name*, empty when there is none.

    Raises:
        ConfigError: A key stands where the section should.
    """
    section = config.get(name, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"[{name}] is not a section but a {type(section).__name__}")
    return section


def checked(config: Config, name: str, model: Any, folder: Path | None = None) -> Any:
    """Return a section as its *model*, a pydantic model, makes it; without one as it is.

    Args:
        config: All sections.
        name: Name of the section.
        model: Its model.
        folder: Where config.toml is, for the paths of a model with a method `relative_to`.

    Raises:
        ConfigError: The model refuses it; a line for each fault; the only value that one shows is a
            number out of range.
        WiringError: A validator of the model raised it; it is passed on as it is.
    """
    section = dict(section_of(config, name))
    if model is None:
        return section
    try:
        made = model.model_validate(section)
        relative_to = getattr(made, "relative_to", None)
        return made if folder is None or relative_to is None else relative_to(folder)
    except WiringError:
        raise
    except Exception as error:  # noqa: BLE001 -- any kind of model; raised again below
        problems = _problems(name, model, error)
    # Outside of the except block: the model's error holds the values, and is not to be carried on.
    raise ConfigError("\n".join(problems))


def out_of_range(value: object, bounds: Mapping[str, Any]) -> str:
    """Say that a number, the only kind of value that is ever shown, is not within *bounds*.

    Args:
        value: The number.
        bounds: `ge`, `gt`, `le` and `lt`, as pydantic calls them, of those that there are.
    """
    if bounds.keys() == {"ge", "le"}:
        allowed = f"{bounds['ge']} to {bounds['le']}"
    else:
        allowed = ", ".join(_BOUNDS[name].format(bound) for name, bound in bounds.items())
    return f"{_shown(value)} is out of range: {allowed}"


def _shown(number: object) -> str:
    try:
        text = str(number)
    except ValueError:  # Python writes no integer of thousands of digits
        text = hex(number) if isinstance(number, int) else type(number).__name__
    return text if len(text) <= _LONGEST_NUMBER else f"{text[:_LONGEST_NUMBER]}…"


def unknown_key(section: str, key: str, known: Iterable[str]) -> str:
    """Say that a section has no such *key*, and which one may have been meant."""
    known = list(known)
    return (
        f"[{section}] {key}: unknown key{nearest(key, known)}; there are: "
        f"{', '.join(known) or 'none'}"
    )


def _problems(section: str, model: Any, error: Exception) -> list[str]:
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return [f"[{section}] is refused: {type(error).__name__}"]
    fields = getattr(model, "model_fields", {})
    known = {getattr(field, "alias", None) or name: field for name, field in fields.items()}
    return [_problem(section, known, problem) for problem in errors()]


def _problem(section: str, known: Mapping[str, Any], problem: Mapping[str, Any]) -> str:
    raised = problem.get("ctx", {}).get("error")
    if isinstance(raised, ConfigError):
        return str(raised)  # it names the culprit and the fix by itself
    key = ".".join(str(part) for part in problem["loc"])
    if problem.get("type") == "extra_forbidden" and len(problem["loc"]) == 1:
        return unknown_key(section, key, known)
    field = known.get(str(problem["loc"][0])) if key else None
    said = problem["msg"]
    bounds = {name: bound for name in _BOUNDS if (bound := _bound(field, name)) is not None}
    if problem.get("type") in _OUT_OF_RANGE and bounds:
        said = out_of_range(problem.get("input"), bounds)
    if meaning := getattr(field, "description", ""):
        said = f"{said} ({meaning})"
    return f"[{section}] {key}: {said}" if key else f"[{section}] {said}"


def _bound(field: Any, name: str) -> Any:
    found = (getattr(each, name, None) for each in getattr(field, "metadata", ()))
    return next((each for each in found if each is not None), None)
