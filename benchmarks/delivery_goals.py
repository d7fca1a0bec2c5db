"""The goals of durable delivery: replies, what is beyond the user's, storage of conversations."""

from benchmarks.goal import Goal, fact

_SYSTEMS = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
_OUTBOX, _INBOX = "outbox: uow.send", "inbox and outbox"
_AT_ONCE, _SLOW = "answers at once", "takes 50 ms"
_CHATS = ("1 chat", "20 chats")


def _reply(
    who: str, telegram: str, what: str, bound: float, *, systems: tuple[str, ...] = (*_SYSTEMS,)
) -> Goal:
    """Return the goal of a reply of *who*, whose *telegram* answers like that; *what* is asked."""
    facts = {
        f"{_SYSTEMS[system]} {chats}": fact(
            f"{system}, {telegram}", "reply", who, f"{chats} {what}"
        )
        for system in systems
        for chats in (_CHATS[:1] if what == "ms" else _CHATS)
    }
    words = {"wall": "/ direct, wall", "cpu": "/ direct, CPU", "ms": "more than direct"}[what]
    unit = "ms" if what == "ms" else ""
    return Goal(f"reply, {who}, Telegram {telegram} {words}", bound, facts, unit)


def _counted(who: str, what: str, bound: float) -> Goal:
    """Return the goal of the statements or transactions of a reply beyond the user's."""
    facts = {name: fact(key, "counted", who, what) for key, name in _SYSTEMS.items()}
    return Goal(f"reply, {who}, beyond the user's", bound, facts, what)


def _of_both(what: str, work: str, bound: float, unit: str = "") -> Goal:
    """Return the goal of a number that each database has."""
    return Goal(work, bound, {name: f"{key} | {what}" for key, name in _SYSTEMS.items()}, unit)


def _fsm(what: str, mode: str, work: str, bound: float, unit: str = "") -> Goal:
    facts = {name: f"fsm {key} {what} | {mode}" for key, name in _SYSTEMS.items()}
    return Goal(work, bound, facts, unit)


DELIVERY: tuple[Goal, ...] = (
    _reply(_OUTBOX, _AT_ONCE, "wall", 1.5),
    _reply(_INBOX, _AT_ONCE, "wall", 2.3),
    _reply(_OUTBOX, _AT_ONCE, "ms", 2.0),
    _reply(_INBOX, _AT_ONCE, "ms", 2.0),
    _reply(_OUTBOX, _SLOW, "wall", 1.05),
    _reply(_INBOX, _SLOW, "wall", 1.05),
    _reply(_OUTBOX, _AT_ONCE, "cpu", 1.6),
    _reply(_INBOX, _AT_ONCE, "cpu", 2.1, systems=("postgresql",)),
    _reply(_INBOX, _AT_ONCE, "cpu", 2.6, systems=("sqlite",)),
    Goal(
        "reply, outbox: uow.send / faststream-outbox, CPU",
        1.0,
        {chats: f"postgresql | outbox/faststream-outbox | {chats} cpu" for chats in _CHATS},
    ),
    _counted(_OUTBOX, "statements", 2),
    _counted(_INBOX, "statements", 3),
    _counted(_OUTBOX, "transactions", 1),
    _counted(_INBOX, "transactions", 2),
    _of_both("store", "store of 100 updates / 100 single ones, wall", 0.15),
    _of_both("relay", "messages from the table / bot.send_message, 100 at once, wall", 2.5),
    _of_both("broadcast call s", "broadcast, the call for 100,000 chats, wall", 1, "s"),
    _of_both("broadcast p99", "replies beside a broadcast / beside a paused one, p99", 1.5),
    _fsm(
        "step", "sequential wall", "FSM, a step in the unit / RedisStorage, sequential, wall", 1.25
    ),
    _fsm("state read", "sequential ms", "FSM, a state read / RedisStorage: more", 0.3, "ms"),
    Goal(
        "unit that sends nothing, delivery loaded / not", 10, {"": "calls delivery"}, "calls more"
    ),
)
