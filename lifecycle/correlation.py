"""Whose work this is: the update, handler, plugin and unit that whatever happens belongs to."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import msgspec


class Correlation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where an event comes from: carried by a context variable into events and log lines.

    Args:
        update_id: Telegram's id of the update that is being handled.
        update_type: Its type, as `message` or `callback_query`.
        chat_type: `private`, `group`, … of the chat it came from.
        handler: Qualified name of the handler that was called.
        plugin: Name of the plugin that the handler, hook or task belongs to.
        unit: Number of the open unit of work.
    """

    update_id: int | None = None
    update_type: str | None = None
    chat_type: str | None = None
    handler: str | None = None
    plugin: str | None = None
    unit: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what is known, without the fields that are not."""
        return {k: v for k, v in msgspec.structs.asdict(self).items() if v is not None}


class Scope:
    """A time in which a correlation holds.

    Args:
        correlation: What holds.
        outer: What holds when it is over; by default the scope itself, which is never over.
    """

    __slots__ = ("correlation", "outer", "over")

    def __init__(self, correlation: Correlation, outer: "Scope | None" = None) -> None:
        self.correlation = correlation
        self.outer = self if outer is None else outer
        self.over = False


_NOWHERE: Final = Scope(Correlation())
_scope: ContextVar[Scope] = ContextVar("lifecycle_correlation", default=_NOWHERE)


def current_correlation() -> Correlation:
    """Return the correlation of the running task; what is over holds no longer."""
    scope = _scope.get()
    while scope.over:
        scope = scope.outer
    return scope.correlation


def set_correlation(correlation: Correlation) -> Scope:
    """Let *correlation* hold from here on, instead of the present one.

    Args:
        correlation: What holds.

    Returns:
        What `pop_correlation` needs to end it.
    """
    outer = _scope.get()
    while outer.over:
        outer = outer.outer
    scope = Scope(correlation, outer)
    _scope.set(scope)
    return scope


def push_correlation(**fields: Any) -> Scope:
    """Add *fields* to the correlation from here on; `correlate` is the same for a block.

    Args:
        **fields: Fields of `Correlation`.

    Returns:
        What `pop_correlation` needs to take them away again.
    """
    return set_correlation(msgspec.structs.replace(current_correlation(), **fields))


def pop_correlation(scope: Scope) -> None:
    """Go back to what held before *scope*; tasks that were started in it keep it.

    What was set within *scope* and not ended yet goes with it. Nothing happens when *scope* does
    not hold here: it ended with one around it, or is of another task.

    Args:
        scope: What `set_correlation` or `push_correlation` returned.
    """
    here = _scope.get()
    while here is not scope and here.outer is not here:
        here = here.outer
    if here is scope:
        _scope.set(scope.outer)


def end_correlation(scope: Scope) -> None:
    """End *scope* for every task, in whatever task and order: what comes later is not part of it.

    Args:
        scope: What `set_correlation` or `push_correlation` returned.
    """
    scope.over = True
    while scope.outer.over:
        scope.outer = scope.outer.outer
    if _scope.get() is scope:  # else a later one holds on: units may overlap
        _scope.set(scope.outer)


@contextmanager
def correlate(**fields: Any) -> Iterator[Correlation]:
    """Add *fields* to the correlation of everything that happens inside the block.

    Args:
        **fields: Fields of `Correlation`.

    Yields:
        The correlation that holds inside the block.
    """
    scope = push_correlation(**fields)
    try:
        yield scope.correlation
    finally:
        pop_correlation(scope)
