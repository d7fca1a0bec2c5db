"""Checks how plugins fit together, and decides their order and deadlines, before any hook runs."""

import inspect
from collections.abc import Collection, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from lifecycle.errors import WiringError, nearest
from lifecycle.plugins.plugin import Plugin
from lifecycle.tasks import PATIENCE

_HOOKS = ("load", "start", "stop", "unload", "health")


def in_order(plugins: Iterable[Plugin | type[Plugin]]) -> dict[str, Plugin]:
    """Check *plugins* and return them by name, each after what it requires.

    Args:
        plugins: Plugins, or classes of plugins that are made without arguments.

    Raises:
        WiringError: They do not fit together.
    """
    by_name = _by_name(plugins)
    for plugin in by_name.values():
        for needed in plugin.requires:
            if needed not in by_name:
                raise WiringError(
                    f"plugin {plugin.name!r} requires {needed!r}, which is not there"
                    f"{nearest(needed, by_name)}; add it to [app] plugins, or take it out of "
                    f"`requires` of {_where(plugin)}"
                )
    sorter = TopologicalSorter({name: plugin.requires for name, plugin in by_name.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        # graphlib names the cycle from the required plugin to the one that requires it.
        cycle = " requires ".join(repr(name) for name in reversed(error.args[1]))
        raise WiringError(
            f"plugins require each other in a cycle: {cycle}; take one out of `requires`"
        ) from None
    ordered: dict[str, Plugin] = {}
    ready: set[str] = set()
    while sorter.is_active():
        ready.update(sorter.get_ready())
        name = next(each for each in by_name if each in ready)  # as given, where that is possible
        ready.remove(name)
        sorter.done(name)
        ordered[name] = by_name[name]
    return ordered


def required_by(plugins: Mapping[str, Plugin]) -> dict[str, set[str]]:
    """Return for each plugin everything it requires, directly or not.

    Args:
        plugins: In order.
    """
    needs: dict[str, set[str]] = {}
    for name, plugin in plugins.items():
        needs[name] = set(plugin.requires).union(*(needs[needed] for needed in plugin.requires))
    return needs


def closing_deadlines(
    plugins: Collection[Plugin], grace: float, drain: float
) -> dict[str, tuple[float, float]]:
    """Share the grace time among the hooks that close plugins.

    Args:
        plugins: The plugins.
        grace: Seconds that a stop may take in all.
        drain: Seconds of it that are for updates in flight.

    Returns:
        Seconds for the stop and for the unload of each plugin.

    Raises:
        WiringError: The deadlines that plugins ask for do not fit.
    """
    asked = {
        f"{plugin.name}.{hook}": seconds
        for plugin in plugins
        for hook, seconds in (("stop", plugin.stop_timeout), ("unload", plugin.unload_timeout))
    }
    explicit = {hook: seconds for hook, seconds in asked.items() if seconds is not None}
    total = sum(explicit.values())
    if total > grace - drain:
        hooks = ", ".join(f"{hook} {seconds:g} s" for hook, seconds in explicit.items())
        raise WiringError(
            f"the deadlines {hooks} are {total:g} s together; [app] grace leaves {grace:g} s - "
            f"{drain:g} s for updates in flight = {grace - drain:g} s: make them shorter, or "
            f"`grace` longer (and the container's own grace time with it)"
        )
    share = (grace - drain - total) / max(len(asked) - len(explicit), 1)
    # With very many plugins a fair share is too short to be useful; the minimum can then exceed
    # `grace`, if all of them hang.
    share = max(share, PATIENCE)
    seconds = {hook: share if given is None else given for hook, given in asked.items()}
    return {p.name: (seconds[f"{p.name}.stop"], seconds[f"{p.name}.unload"]) for p in plugins}


def _by_name(plugins: Iterable[Plugin | type[Plugin]]) -> dict[str, Plugin]:
    by_name: dict[str, Plugin] = {}
    for given in plugins:
        plugin = given() if isinstance(given, type) else given
        _check(plugin)
        if plugin.name in by_name:
            raise WiringError(
                f"two plugins have the name {plugin.name!r}: {_where(by_name[plugin.name])} and "
                f"{_where(plugin)}; change the `name` of one"
            )
        by_name[plugin.name] = plugin
    return by_name


def _check(plugin: Plugin) -> None:
    where = _where(plugin)
    if not isinstance(plugin, Plugin):
        raise WiringError(f"{where} is not a lifecycle.Plugin; make it a subclass")
    if not plugin.name or ":" in plugin.name or plugin.name == "app":
        raise WiringError(
            f"{where} has the name {plugin.name!r}; give it a `name` that is not empty, has no "
            f"colon and is not 'app'"
        )
    requires: object = plugin.requires
    if isinstance(requires, str):
        raise WiringError(f"`requires` of {where} is the text {requires!r}; write ({requires!r},)")
    for hook in _HOOKS:
        if not inspect.iscoroutinefunction(getattr(plugin, hook)):
            raise WiringError(f"hook {hook!r} of {where} is not async; write `async def {hook}`")


def _where(plugin: object) -> str:
    return f"{type(plugin).__module__}.{type(plugin).__qualname__}"
