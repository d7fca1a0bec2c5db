"""Asks libpq what psycopg does not say: whether a server that gave no connection is there."""

import asyncio
from typing import Any

from db_manager.dialects.classify import is_uncoded, origin

#: Of the connection's parameters libpq needs none of these to ask.
_SECRET = frozenset({"password", "passfile", "sslpassword", "oauth_client_secret"})


async def refuses_us(error: BaseException) -> bool:
    """Return True when the server takes connections, and refused ours.

    psycopg has no code for a failed connection attempt, and words are none: libpq asks the server
    once more, without role and password.

    Args:
        error: What the attempt raised.
    """
    pgconn: Any = getattr(origin(error), "pgconn", None)
    if not is_uncoded(error) or pgconn is None:  # none when the name of the host was not found
        return False
    from psycopg.conninfo import make_conninfo  # noqa: PLC0415 -- only where it is in use
    from psycopg.pq import PGconn, Ping  # noqa: PLC0415 -- the same

    known = {option.keyword.decode(): option.val.decode() for option in pgconn.info if option.val}
    asked = make_conninfo("", **{key: known[key] for key in known.keys() - _SECRET})
    return bool(await asyncio.to_thread(PGconn.ping, asked.encode()) == Ping.OK)
