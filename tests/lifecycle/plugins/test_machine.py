"""The table of legal transitions, the fold, and the diagram made from the table."""

import logging

import pytest
from transitions import Machine

from lifecycle import (
    AppCrashed,
    AppStarted,
    AppStopped,
    AppStopping,
    Event,
    IllegalHistoryError,
    PluginDegraded,
    PluginEvent,
    PluginFailed,
    PluginLoaded,
    PluginLoading,
    PluginRecovered,
    PluginStarted,
    PluginStarting,
    PluginStopped,
    PluginStopping,
    PluginUnloaded,
    PluginUnloading,
    ServiceProvided,
    ServiceWithdrawn,
    State,
    TransitionNotAllowedError,
    replay,
    to_mermaid,
)
from lifecycle.journal import JournalEntry
from lifecycle.plugins.machine import PluginFold

LOADING, STARTING = PluginLoading(plugin="p"), PluginStarting(plugin="p")
LOADED, STARTED = PluginLoaded(plugin="p", duration=0), PluginStarted(plugin="p", duration=0)
STOPPING, UNLOADING = PluginStopping(plugin="p"), PluginUnloading(plugin="p")
STOPPED, UNLOADED = PluginStopped(plugin="p", duration=0), PluginUnloaded(plugin="p", duration=0)
FAILED = PluginFailed(plugin="p", hook="load", error="x", duration=0)
DEGRADED, RECOVERED = (
    PluginDegraded(plugin="p", reason="x"),
    PluginRecovered(plugin="p", duration=0),
)
PROVIDED = ServiceProvided(plugin="p", service="p:x")
WITHDRAWN = ServiceWithdrawn(plugin="p", service="p:x")
UP = (LOADING, LOADED, STARTING, STARTED)

#: Every way into every state, by the events that lead there.
WAYS: dict[str, tuple[PluginEvent, ...]] = {
    "unloaded": (),
    "loading": UP[:1],
    "loaded": UP[:2],
    "starting": UP[:3],
    "started": UP,
    "stopping": (*UP, STOPPING),
    "stopped": (*UP, STOPPING, STOPPED),
    "unloading": (*UP, STOPPING, STOPPED, UNLOADING),
    "failed": (LOADING, FAILED),
}

#: What is allowed in each state.
ALLOWED = {
    "unloaded": {"loading"},
    "loading": {"loaded", "failed"},
    "loaded": {"starting", "unloading"},
    "starting": {"started", "failed"},
    "started": {"stopping", "degraded"},
    "stopping": {"stopped", "failed"},
    "stopped": {"starting", "unloading"},
    "unloading": {"unloaded", "failed"},
    "failed": {"unloading"},
}


def history(*events: Event, run: int = 1) -> list[JournalEntry]:
    """Return *events* as the journal would keep them."""
    return [JournalEntry(seq=n, run=run, event=event) for n, event in enumerate(events, 1)]


@pytest.mark.parametrize("state", WAYS)
def test_each_state_allows_exactly_its_transitions(state: str) -> None:
    """What is not in the table is refused, and changes nothing."""
    closing = (STOPPING, STOPPED, UNLOADING, UNLOADED)
    events: tuple[PluginEvent, ...] = (*UP, *closing, FAILED, DEGRADED, RECOVERED)
    allowed = set()
    for event in events:
        fold = PluginFold()
        for step in WAYS[state]:
            fold.apply(step)
        assert fold.state == state
        trigger = event.topic.removeprefix("plugin.")
        try:
            fold.apply(event)
        except TransitionNotAllowedError as error:
            assert str(error) == f"plugin 'p' is {state}: {trigger!r} is not allowed there"  # noqa: PT017 -- the refusals are what is collected
            assert fold.state == state
        else:
            allowed.add(trigger)
    assert allowed == ALLOWED[state]


def test_only_what_was_lost_can_be_back() -> None:
    """`recovered` is legal after `degraded`, once, and not in a new life."""
    fold = PluginFold()
    ups: tuple[PluginEvent, ...] = (*UP, DEGRADED, DEGRADED, RECOVERED)
    for event in ups:
        fold.apply(event)
    assert not fold.degraded
    with pytest.raises(TransitionNotAllowedError):
        fold.apply(RECOVERED)
    for again in (DEGRADED, STOPPING, STOPPED, STARTING, STARTED):
        fold.apply(again)
    with pytest.raises(TransitionNotAllowedError):
        fold.apply(RECOVERED)


def test_replay_gives_the_states_of_the_last_run() -> None:
    """A new run begins with every plugin unloaded."""
    assert replay(history(*UP, AppStarted(plugins=("p",), duration=0))) == {"p": State.STARTED}
    crash = AppCrashed(run=1, last_topic="plugin.started")
    entries = history(*UP) + history(crash, LOADING, FAILED, run=2)
    assert replay(entries) == {"p": State.FAILED}
    assert replay([]) == {}


@pytest.mark.parametrize(
    ("events", "seq", "reason"),
    [
        ((LOADED,), 1, "plugin 'p' is unloaded: 'loaded' is not allowed there"),
        ((*UP, STOPPED), 5, "plugin 'p' is started: 'stopped' is not allowed there"),
        ((*UP, RECOVERED), 5, "plugin 'p' is started: 'recovered' is not allowed there"),
        ((AppStopped(duration=0),), 1, "app.stopped does not fit to the app.* event before it"),
        (
            (AppStopping(), AppStopping()),
            2,
            "app.stopping does not fit to the app.* event before it",
        ),
        (
            (LOADING, AppStarted(plugins=("p",), duration=0)),
            2,
            "app.started, but plugin 'p' is not started",
        ),
        ((LOADING, AppCrashed(run=1)), 2, "app.crashed is not the first event of its run"),
        ((PROVIDED,), 1, "'p:x' is provided by a plugin that is not loaded"),
        ((LOADING, PROVIDED, PROVIDED), 3, "'p:x' is provided twice"),
        ((LOADING, WITHDRAWN), 2, "'p:x' is withdrawn but was not provided"),
        ((LOADING, PROVIDED, FAILED), 3, "plugin 'p' is failed but provides ['p:x']"),
    ],
)
def test_illegal_history_is_refused_at_its_event(
    events: tuple[Event, ...], seq: int, reason: str
) -> None:
    """The error names the first event that does not fit, and why."""
    with pytest.raises(IllegalHistoryError) as caught:
        replay(history(*events))
    assert (caught.value.seq, caught.value.reason) == (seq, reason)


def test_gap_in_the_numbers_is_refused() -> None:
    """A lost, repeated or swapped entry shows in the sequence numbers, an old run in the run's."""
    entries = history(*UP)
    for broken, seq in (
        (entries[:1] + entries[2:], 3),
        ([*entries, entries[3]], 4),
        ([entries[1], entries[0]], 2),
        (entries + history(LOADING, run=3) + history(LOADING, run=2), 1),
    ):
        with pytest.raises(IllegalHistoryError) as caught:
            replay(broken)
        assert caught.value.seq == seq


def test_diagram_is_made_from_the_table() -> None:
    """The Mermaid text holds every transition and nothing else."""
    assert to_mermaid() == (
        "stateDiagram-v2\n"
        "    [*] --> unloaded\n"
        "    unloaded --> loading: loading\n"
        "    loading --> loaded: loaded\n"
        "    loaded --> starting: starting\n"
        "    stopped --> starting: starting\n"
        "    starting --> started: started\n"
        "    started --> started: degraded\n"
        "    started --> started: recovered\n"
        "    started --> stopping: stopping\n"
        "    stopping --> stopped: stopped\n"
        "    loaded --> unloading: unloading\n"
        "    stopped --> unloading: unloading\n"
        "    failed --> unloading: unloading\n"
        "    unloading --> unloaded: unloaded\n"
        "    loading --> failed: failed\n"
        "    starting --> failed: failed\n"
        "    stopping --> failed: failed\n"
        "    unloading --> failed: failed\n"
    )


def test_a_state_machine_of_the_bot_logs_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    """The lines of our own machine are left out, and no others."""

    class Order:
        """A model of somebody else's."""

    order = Order()
    Machine(order, states=["new", "paid"], initial="new", name="order").add_transition(
        "pay", "new", "paid"
    )
    with caplog.at_level(logging.INFO):
        order.pay()  # type: ignore[attr-defined]  # made by the library
    assert [each.partition(":")[0] for each in caplog.messages] == ["order", "order"]
