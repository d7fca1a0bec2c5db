"""What does not fit together is refused before anything runs, with the names and the fix."""

from typing import Any

import pytest

from lifecycle import Application, Plugin, WiringError

# The tests are modules without a package: the texts name them by their path.
HERE = __name__


def plugin(name: str, *requires: str, **attributes: Any) -> Plugin:
    """Return a plugin made of attributes only."""
    kind = type("Made", (Plugin,), {"name": name, "requires": requires, **attributes})
    kind.__module__ = "shop.parts"
    made = kind()
    assert isinstance(made, Plugin)
    return made


def refusal(*plugins: Any, **config: Any) -> str:
    """Return the text with which the application refuses *plugins*."""
    with pytest.raises(WiringError) as caught:
        Application(plugins, config=config)
    return str(caught.value)


def test_missing_dependency_is_named() -> None:
    """The text says who requires what, and the nearest name there is."""
    assert refusal(plugin("notes", "databse"), plugin("database")) == (
        "plugin 'notes' requires 'databse', which is not there (did you mean 'database'?); add it "
        "to [app] plugins, or take it out of `requires` of shop.parts.Made"
    )


def test_circle_is_named() -> None:
    """The text walks round the cycle, each name followed by what it requires."""
    assert refusal(plugin("a", "b"), plugin("b", "c"), plugin("c", "a")) == (
        "plugins require each other in a cycle: 'a' requires 'b' requires 'c' requires 'a'; "
        "take one out of `requires`"
    )


def test_duplicate_name_is_named() -> None:
    """Two plugins with one name are both named by their classes."""

    class Other(Plugin):
        name = "a"

    assert refusal(plugin("a"), Other) == (
        "two plugins have the name 'a': shop.parts.Made and "
        f"{HERE}.test_duplicate_name_is_named.<locals>.Other; change the `name` of one"
    )


def test_hook_that_is_not_async_is_named() -> None:
    """A plain function as a hook is refused, since nobody could wait for it."""
    assert refusal(plugin("a", start=lambda _self, _context: None)) == (
        "hook 'start' of shop.parts.Made is not async; write `async def start`"
    )


@pytest.mark.parametrize("name", ["", "a:b", "app"])
def test_bad_name_is_refused(name: str) -> None:
    """A name is not empty, has no colon, and is not the application's own section."""
    assert refusal(plugin(name)) == (
        f"shop.parts.Made has the name {name!r}; give it a `name` that is not empty, has no colon "
        f"and is not 'app'"
    )


def test_text_as_requires_is_refused() -> None:
    """`requires = "db"` would mean the plugins `d` and `b`."""
    made = plugin("a")
    made.requires = "db"  # type: ignore[assignment]  # the mistake that is reported
    assert refusal(made) == "`requires` of shop.parts.Made is the text 'db'; write ('db',)"


def test_what_is_not_a_plugin_is_refused() -> None:
    """An object of another kind is named by its class."""
    assert refusal(object()) == "builtins.object is not a lifecycle.Plugin; make it a subclass"


def test_deadlines_over_the_grace_time_are_refused() -> None:
    """The deadlines that were asked for are listed, with what the grace time leaves."""
    plugins = plugin("a", stop_timeout=5.0), plugin("b", unload_timeout=2.5), plugin("c")
    assert refusal(*plugins) == (
        "the deadlines a.stop 5 s, b.unload 2.5 s are 7.5 s together; [app] grace leaves 10 s - "
        "4 s for updates in flight = 6 s: make them shorter, or `grace` longer (and the "
        "container's own grace time with it)"
    )


def test_grace_time_is_shared_by_who_asked_for_nothing() -> None:
    """The deadlines of all closing hooks together are the grace time without the drain."""
    plugins = plugin("a", stop_timeout=3.0), plugin("b")
    app = Application(plugins, config={"app": {"grace": 10, "drain": 4}})
    a, b = app.plugins["a"], app.plugins["b"]
    assert a.stop_deadline == 3
    assert a.unload_deadline == b.stop_deadline == b.unload_deadline == 1
    crowd = Application([plugin(f"p{n}") for n in range(100)])
    assert crowd.plugins["p0"].stop_deadline == 0.25


def test_independent_plugins_keep_the_order_they_were_given() -> None:
    """Dependencies come first; otherwise the order is the one of the list."""
    names = list(Application([plugin("c", "b"), plugin("x"), plugin("b"), plugin("a")]).plugins)
    assert names == ["x", "b", "c", "a"]
