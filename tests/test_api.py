"""The public surface: what can be imported, what that costs, and what events promise."""

import ast
import importlib
import inspect
import json
import pickle
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest

import db_manager
import db_manager.events
import lifecycle
import lifecycle.events
import lifecycle.testing
import observability.testing
from lifecycle.event import EVENT_TYPES, Event

ROOT = Path(__file__).parents[1]
PACKAGES = ("lifecycle", "db_manager", "observability")
FRONTS = (lifecycle, lifecycle.testing, db_manager, observability.testing)
EVENTS = [e for e in EVENT_TYPES.values() if e.__module__.partition(".")[0] in PACKAGES]
#: Fields with few values, none of which a user chose.
LABELS = {
    "plugin",
    "hook",
    "subscriber",
    "cause",
    "outcome",
    "sqlstate",
    "database",
    "mode",
    "method",
}


@pytest.mark.parametrize("package", FRONTS, ids=lambda package: package.__name__)
def test_all_is_true(package: ModuleType) -> None:
    """Each name of `__all__` is there, and stands in it once."""
    names = package.__all__
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(package, name) is not None


@pytest.mark.parametrize("package", FRONTS, ids=lambda package: package.__name__)
def test_a_package_says_the_same_to_type_checkers_and_at_run_time(package: ModuleType) -> None:
    """What a type checker sees in a package is what the lazy import finds, and no more."""
    source = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(package.__name__)
        for alias in node.names
        if not str(alias.asname).startswith("_")
    }
    assert seen.keys() == set(package.__all__)
    for name, module in seen.items():
        assert getattr(package, name) is getattr(importlib.import_module(str(module)), name)
    assert set(dir(package)) == set(package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Bass'"):
        _ = package.Bass


@pytest.mark.parametrize("package", FRONTS, ids=lambda package: package.__name__)
def test_a_name_is_looked_for_once_and_can_be_pickled(package: ModuleType) -> None:
    """After its first use a name is an ordinary one of its package, and pickled by its module."""
    for name in package.__all__:
        value = getattr(package, name)
        assert vars(package)[name] is value
        assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 -- our own


@pytest.mark.parametrize(
    ("package", "base"),
    [(lifecycle, lifecycle.LifecycleError), (db_manager, db_manager.DbManagerError)],
    ids=["lifecycle", "db_manager"],
)
def test_every_error_can_be_imported_from_its_package(package: ModuleType, base: type) -> None:
    """Who catches an error needs no private module for it."""
    home = importlib.import_module(f"{package.__name__}.errors")
    mine = {
        name
        for name, value in vars(home).items()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == home.__name__
    }
    assert mine
    assert mine <= set(package.__all__)


def loaded_by(statement: str) -> set[str]:
    """Return the top-level packages outside of the standard library that a statement imports."""
    program = (
        "import sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*(new - sys.stdlib_module_names))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True
    )
    return set(run.stdout.split())


def test_lifecycle_needs_two_packages() -> None:
    """All of `lifecycle` needs transitions and msgspec, and what these import, nothing else."""
    theirs = {"six", "typing_extensions"}  # msgspec imports the latter where it is installed
    assert loaded_by("import lifecycle") == {"lifecycle"}
    everything = loaded_by("from lifecycle import *")
    assert everything - theirs == {"lifecycle", "transitions", "msgspec"}


def test_db_manager_is_imported_when_it_is_used() -> None:
    """`import db_manager` loads no package but ours, and a unit of work loads no aiogram."""
    assert loaded_by("import db_manager") == {"db_manager", "lifecycle"}
    used = loaded_by("from db_manager import DatabasePlugin, UnitOfWork")
    assert "sqlalchemy" in used
    assert not used & {"aiogram", "aiohttp", "observability"}


def test_the_test_kit_needs_no_database_and_no_bot() -> None:
    """The recorder loads nothing but lifecycle; the local Telegram only aiohttp."""
    forbidden = {"aiogram", "sqlalchemy", "db_manager"}
    kit = "from observability.testing import *; from lifecycle.testing import BotApiServer"
    assert not loaded_by(kit) & forbidden


def test_entry_points_lead_to_what_they_say() -> None:
    """The plugin and the observer are found by their names."""
    (plugin,) = entry_points(group="db_manager.plugins", name="db_manager")
    assert plugin.load() is db_manager.DatabasePlugin
    (observer,) = entry_points(group="db_manager.observers", name="observability")
    assert list(inspect.signature(observer.load()).parameters) == ["app", "config"]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package: str) -> None:
    """Each package says to type checkers that it is typed."""
    assert (ROOT / package / "py.typed").exists()


def sample(hint: Any) -> Any:
    """Return a value of a field's type; fail when the type is not plain JSON."""
    if get_origin(hint) is Literal:
        return get_args(hint)[-1]
    if get_origin(hint) is tuple:
        return (sample(get_args(hint)[0]),) * 2
    if isinstance(hint, UnionType):
        return sample(get_args(hint)[0])
    return {str: "text", int: 3, float: 0.5, bool: True}[hint]


def fields(event: type[Event]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the own fields of an event."""
    found = {field.name: field for field in msgspec.structs.fields(event)}
    del found["at"], found["correlation"]
    return found


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.topic)
def test_an_event_is_frozen_plain_and_describes_itself(event: type[Event]) -> None:
    """It survives JSON, cannot be changed, and its labels and measures are fields of their kind."""
    happened = event(**{name: sample(field.type) for name, field in fields(event).items()})
    assert msgspec.convert(json.loads(msgspec.json.encode(happened)), event) == happened
    assert json.loads(json.dumps(happened.as_dict()))["topic"] == event.topic
    with pytest.raises(AttributeError, match="immutable"):
        happened.at = 0.0  # type: ignore[misc]  # that is the point
    assert set(event.labels) <= fields(event).keys() & LABELS
    assert {fields(event)[name].type for name in event.measures} <= {float, int}


def test_topics_are_unique_and_named_after_their_subject() -> None:
    """Each event class has a topic of two tokens, its own, and is imported from `events`."""
    topics = [event.topic for event in EVENTS]
    assert len(topics) == len(set(topics))
    assert all(len(topic.split(".")) == 2 for topic in topics)
    public = {**vars(lifecycle.events), **vars(db_manager.events)}
    assert [event for event in EVENTS if public.get(event.__name__) is not event] == []


def test_two_classes_with_one_topic_are_refused() -> None:
    """A topic stands for one class, so that a journal can be read again."""
    with pytest.raises(TypeError, match=r"'uow.begin' of .*Impostor belongs to"):
        type("Impostor", (Event,), {"topic": "uow.begin", "__module__": __name__})
