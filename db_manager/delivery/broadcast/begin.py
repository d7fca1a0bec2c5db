"""What `uow.broadcast` writes: a message, and the chats that a SELECT finds."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiogram.methods import TelegramMethod
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Insert,
    SelectBase,
    SmallInteger,
    String,
    Table,
    Text,
    cast,
    func,
    insert,
    literal,
    null,
    select,
)

from db_manager.delivery.broadcast.broadcast_sql import broadcast_statements
from db_manager.delivery.broadcast.broadcast_tables import WAITING, RecipientRow
from db_manager.delivery.calls.stored import stored
from db_manager.dialects.dialect import Dialect
from db_manager.dialects.known import dialect_of
from db_manager.sending import NotStorableError
from db_manager.unit.uow import UnitOfWork
from lifecycle.errors import nearest

#: Stands for the chat in a call that goes to many: `SendMessage(chat_id=EACH, text="…")`.
EACH: Final = "each chat"
_RECIPIENTS: Final[Table] = RecipientRow.__table__  # type: ignore[assignment]  # what it is for a class


async def begin(
    unit: UnitOfWork,
    bot_id: int,
    method: TelegramMethod[Any],
    to: SelectBase,
    *,
    once: bool,
    max_file: int,
) -> int:
    """Write a broadcast and its chats into *unit*; return its number.

    Args:
        unit: The unit.
        bot_id: The bot that sends it.
        method: The call.
        to: Finds the chats; see `UnitOfWork.broadcast`.
        once: Rather send it to a chat not at all than twice.
        max_file: Bytes that a file has at most; larger ones are refused for that.

    Raises:
        NotStorableError: It has something in it that cannot be kept, as a file.
        TypeError: *to* is no SELECT, or its first column has no numbers.
        ValueError: The call goes to one chat, or a column is no field of it.
    """
    payload = _payload(method, max_file)
    columns = _columns(method, to)
    await unit.session.flush()  # the SELECT finds what the unit has added
    sql = broadcast_statements(dialect := dialect_of(unit.connection.dialect))
    given = {
        "bot_id": bot_id,
        "method": method.__api_method__,
        "payload": payload,
        "once": once,
    }
    number: int = (await unit.connection.execute(sql["begin"], given)).scalar_one()
    await unit.connection.execute(_chosen(dialect, number, columns))
    await unit.connection.execute(sql["count"], {"id": number})
    return number


def _payload(method: TelegramMethod[Any], max_file: int) -> str:
    """Return the fields of *method* as JSON.

    Raises:
        NotStorableError: It has a file, or something that cannot be kept.
        ValueError: It goes to one chat.
    """
    name = method.__api_method__
    if getattr(method, "chat_id", None) != EACH:
        raise ValueError(
            f"a broadcast goes to each chat of its SELECT: write "
            f"{type(method).__name__}(chat_id=EACH, ...), with EACH of db_manager.delivery"
        )
    payload, files = stored(method, max_file)
    if files:
        fix = "goes to many chats: send it to one first, and broadcast the file_id of the answer"
        raise NotStorableError(name, files[0].field, fix)
    return payload


def _columns(method: TelegramMethod[Any], to: SelectBase) -> Sequence[ColumnElement[Any]]:
    """Return what *to* selects: the chat, and fields of *method*.

    Raises:
        TypeError: *to* is no SELECT, or its first column has no numbers.
        ValueError: A column is no field of *method*.
    """
    if not isinstance(to, SelectBase):
        raise TypeError(f"to is a SELECT, as select(Guest.chat_id), and not {type(to).__name__}")
    chat, *own = to.subquery("chosen").c
    if isinstance(chat.type, String):
        raise TypeError(f"the first column of the SELECT, {chat.key}, has texts, not ids of chats")
    fields: Mapping[str, Any] = type(method).model_fields
    for column in own:
        if column.key not in fields or column.key == "chat_id":
            raise ValueError(
                f"the column {column.key!r} of the SELECT is no field of {method.__api_method__}"
                f"{nearest(column.key, fields)}: the first column is the chat, and each other one "
                f"replaces the field of its name, as in .label('text')"
            )
    return [chat, *own]


def _chosen(dialect: Dialect, number: int, columns: Sequence[ColumnElement[Any]]) -> Insert:
    """Return an INSERT of each chat once."""
    chat, *own = columns
    pairs = [part for column in own for part in (literal(column.key, Text), column)]
    fields = cast(getattr(func, dialect.json_object)(*pairs), Text) if own else cast(null(), Text)
    place = func.row_number().over(partition_by=chat, order_by=chat)
    found = (
        select(chat.label("chat"), fields.label("fields"), place.label("place"))
        .where(chat.is_not(None))
        .subquery("found")
    )
    rows = select(
        literal(number, BigInteger), found.c.chat, literal(WAITING, SmallInteger), found.c.fields
    ).where(found.c.place == 1)
    return insert(_RECIPIENTS).from_select(["broadcast_id", "chat_id", "state", "fields"], rows)
