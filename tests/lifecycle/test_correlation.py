"""What a correlation is bound to: its block, whatever was entered in it and is not left yet."""

import asyncio
import contextvars
from collections.abc import Generator, Iterator

import pytest

from lifecycle.correlation import (
    Correlation,
    correlate,
    current_correlation,
    end_correlation,
    pop_correlation,
    push_correlation,
)


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    """See to it that nothing holds before a test and after it."""
    assert current_correlation() == Correlation()
    yield
    assert current_correlation() == Correlation()


def test_a_block_takes_what_was_pushed_in_it_along() -> None:
    """After a block nothing holds that was added in it and not taken away."""
    with correlate(update_id=7):
        with correlate(plugin="a"):
            push_correlation(unit=1)
            push_correlation(handler="h")
        assert current_correlation() == Correlation(update_id=7)


def test_a_scope_that_is_left_late_takes_nothing_away() -> None:
    """A scope that the block around it has taken along may be left, popped or ended after it."""
    for leave in (pop_correlation, end_correlation):
        with correlate(update_id=7):
            with correlate(plugin="a"):
                inner = push_correlation(unit=1)
            leave(inner)
            assert current_correlation() == Correlation(update_id=7)


def test_scopes_that_overlap_leave_nothing() -> None:
    """Scopes that are ended may overlap: the later one holds on, and goes back before the first."""
    first = push_correlation(unit=1)
    second = push_correlation(unit=2)
    end_correlation(first)
    assert current_correlation() == Correlation(unit=2)
    end_correlation(second)


def test_a_generator_that_is_closed_within_a_later_block_leaves_nothing() -> None:
    """A block of a generator that ends while a later one is open takes that one along."""

    def numbers() -> Generator[int, None, None]:
        with correlate(plugin="a"):
            yield 1

    generator = numbers()
    next(generator)
    with correlate(unit=1):
        generator.close()
        assert current_correlation() == Correlation()


async def test_a_task_keeps_what_held_where_it_was_started() -> None:
    """The end of a block is of its own task: others go on under what it took along."""
    go = asyncio.Event()

    async def child() -> Correlation:
        await go.wait()
        return current_correlation()

    with correlate(plugin="a"):
        push_correlation(unit=1)
        task = asyncio.create_task(child())
    go.set()
    assert await task == Correlation(plugin="a", unit=1)


def test_another_context_leaves_only_its_own() -> None:
    """Whoever ends a scope in a copy of the context changes the copy."""
    with correlate(plugin="a") as holds:
        scope = push_correlation(unit=1)
        contextvars.copy_context().run(pop_correlation, scope)
        assert current_correlation().unit == 1
        contextvars.Context().run(pop_correlation, scope)
        pop_correlation(scope)
        assert current_correlation() == holds
