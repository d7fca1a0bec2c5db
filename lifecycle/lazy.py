"""A package whose names are imported when they are first used."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, modules: Mapping[str, Iterable[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package that exports names of its modules.

    The package assigns both where type checkers do not look; they see ordinary imports instead.

    Args:
        package: Its `__name__`.
        modules: What it exports, by the module that it is from, which is named from the package on.

    Returns:
        A function that imports a name at its first use, and one that lists the names.
    """
    homes = {name: f"{package}.{module}" for module, names in modules.items() for name in names}

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)  # it is not looked for again
        return value

    return find, lambda: sorted(homes)
