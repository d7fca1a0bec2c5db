"""States and data of aiogram's FSM as rows of the database, changed in the unit that is open."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiogram.fsm.state import State
from aiogram.fsm.storage.base import BaseStorage, StateType, StorageKey
from sqlalchemy import BigInteger, String, Text, bindparam, delete, select, update
from sqlalchemy.orm import Mapped, mapped_column

from db_manager.base import Base
from db_manager.delivery.table.storage_parameters import WITH_ROOM, stored_with
from db_manager.dialects.known import dialect_of
from db_manager.errors import DbManagerError
from db_manager.unit.factory import UnitOfWorkFactory
from db_manager.unit.uow import UnitOfWork

#: Longest name of a destiny or id of a business connection that fits, in characters.
_LONGEST: Final = 255


class FsmRow(Base):
    """What is remembered of one user in one chat; without a state and data there is no row."""

    __tablename__ = "delivery__fsm"

    bot_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    chat_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    thread_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    business: Mapped[str] = mapped_column(String(_LONGEST), primary_key=True)
    destiny: Mapped[str] = mapped_column(String(_LONGEST), primary_key=True)
    state: Mapped[str | None] = mapped_column(Text)
    data: Mapped[str | None] = mapped_column(Text)


stored_with(FsmRow, WITH_ROOM)
_TABLE: Final = Base.metadata.tables[FsmRow.__tablename__]
_IS_MINE: Final = [column == bindparam(f"my_{column.name}") for column in _TABLE.primary_key]
_STATE: Final = select(_TABLE.c.state).where(*_IS_MINE)
_DATA: Final = select(_TABLE.c.data).where(*_IS_MINE)
_DATA_TO_CHANGE: Final = _DATA.with_for_update()
#: By the column that becomes empty: deletes a row with nothing else in it, and empties it.
_CLEARS: Final = {
    name: (
        delete(_TABLE).where(*_IS_MINE, _TABLE.c[other].is_(None)),
        update(_TABLE).where(*_IS_MINE).values({name: None}),
    )
    for name, other in (("state", "data"), ("data", "state"))
}


class SqlStorage(BaseStorage):
    """Keeps states and data in the database, for any number of replicas.

        Dispatcher(storage=SqlStorage(uow_factory))

    The plugin `delivery` does this by itself. In an open unit of the task a change is a part of it:
    committed with what the handler writes, or rolled back with it. Without one it is committed at
    once. Data is kept as JSON.

    Added in 0.2.

    Args:
        uow_factory: Makes units for the database; the table `delivery__fsm` is in it.
        json_loads: Reads data.
        json_dumps: Writes data.

    Raises:
        DbManagerError: The database is neither PostgreSQL nor SQLite.
    """

    def __init__(
        self,
        uow_factory: UnitOfWorkFactory,
        *,
        json_loads: Callable[[str], Any] = json.loads,
        json_dumps: Callable[[Any], str] = json.dumps,
    ) -> None:
        dialect = uow_factory.engine.dialect
        try:
            self._upserts = {
                name: dialect_of(dialect).upsert(_TABLE, [name] if name else [])
                for name in ("", "state", "data")
            }
        except NotImplementedError as error:
            raise DbManagerError(
                f"states and data are kept on PostgreSQL and SQLite, not on {dialect.name}"
            ) from error
        self._uow_factory = uow_factory
        self._loads = json_loads
        self._dumps = json_dumps

    async def set_state(self, key: StorageKey, state: StateType = None) -> None:
        """Set the state of *key*; None is none.

        Raises:
            DBAPIError: The database refuses it.
            DatabaseUnavailableError: The database cannot be reached.
        """
        await self._set(key, "state", state.state if isinstance(state, State) else state)

    async def get_state(self, key: StorageKey) -> str | None:
        """Return the state of *key*; None if it has none.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        async with self._uow_factory(read_only=True, nested="join") as uow:
            state: str | None = await uow.connection.scalar(_STATE, _mine(key))
        return state

    async def set_data(self, key: StorageKey, data: Mapping[str, Any]) -> None:
        """Replace the data of *key*.

        Raises:
            TypeError: It is no mapping, or JSON cannot say it; the text names what.
            DBAPIError: The database refuses it.
            DatabaseUnavailableError: The database cannot be reached.
        """
        await self._set(key, "data", self._written(data) if _checked(data) else None)

    async def get_data(self, key: StorageKey) -> dict[str, Any]:
        """Return the data of *key*, which is empty if it has none.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        async with self._uow_factory(read_only=True, nested="join") as uow:
            return self._read(await uow.connection.scalar(_DATA, _mine(key)))

    async def update_data(self, key: StorageKey, data: Mapping[str, Any]) -> dict[str, Any]:
        """Change the data of *key* as `dict.update` does; changes at once are all kept.

        Returns:
            All of its data.

        Raises:
            TypeError: It is no mapping, or JSON cannot say it; the text names what.
            DBAPIError: The database refuses it.
            DatabaseUnavailableError: The database cannot be reached.
        """
        self._written(_checked(data))
        async with self._uow_factory(nested="join", detached=True) as uow:
            row = (await uow.connection.execute(_DATA_TO_CHANGE, _mine(key))).one_or_none()
            if row is None:  # make one to lock; another task may do so at the same time
                await self._upsert(uow, key)
                row = (await uow.connection.execute(_DATA_TO_CHANGE, _mine(key))).one()
            changed = {**self._read(row.data), **data}
            await self._upsert(uow, key, "data", self._written(changed))
        return changed

    async def close(self) -> None:
        """Do nothing: the database is closed by its plugin."""

    async def _set(self, key: StorageKey, name: str, value: str | None) -> None:
        async with self._uow_factory(nested="join", detached=True) as uow:
            if value is None:
                await _clear(uow, key, name)
            else:
                await self._upsert(uow, key, name, value)

    async def _upsert(
        self, uow: UnitOfWork, key: StorageKey, name: str = "", value: str | None = None
    ) -> None:
        """Set a column of the row of *key*, which is made when it is missing, and locked."""
        row = {"state": None, "data": None, **_row(key)}
        await uow.connection.execute(self._upserts[name], {**row, name: value} if name else row)

    def _read(self, text: str | None) -> dict[str, Any]:
        return dict(self._loads(text)) if text else {}

    def _written(self, data: Mapping[str, Any]) -> str:
        try:
            return self._dumps(dict(data))
        except (TypeError, ValueError) as error:
            for name, value in data.items():
                try:
                    self._dumps({name: value})
                except (TypeError, ValueError):
                    raise TypeError(f"FSM data {name!r} cannot be kept as JSON: {error}") from error
            raise


def _mine(key: StorageKey) -> dict[str, Any]:
    return {f"my_{name}": value for name, value in _row(key).items()}


def _row(key: StorageKey) -> dict[str, Any]:
    return {
        "bot_id": key.bot_id,
        "chat_id": key.chat_id,
        "user_id": key.user_id,
        "thread_id": key.thread_id or 0,
        "business": key.business_connection_id or "",
        "destiny": key.destiny,
    }


def _checked(data: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise TypeError(f"FSM data is a mapping, as a dict, and not {type(data).__name__}")
    return data


async def _clear(uow: UnitOfWork, key: StorageKey, name: str) -> None:
    """Empty a column of the row of *key*; a row with nothing in it is deleted."""
    delete_empty, empty = _CLEARS[name]
    deleted = await uow.connection.execute(delete_empty, _mine(key))
    if not deleted.rowcount:
        await uow.connection.execute(empty, _mine(key))
