"""What a program outside of this process needs to reach the database."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import URL


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach a database as the engine does.

    Args:
        url: Where it is, without the password.
        password: The password of the role; None if the program finds it by itself.
        tls: Whether the connection is encrypted, and the certificate verified; None where nobody
            said.
        tls_ca: File with the certificate of the CA; None for those of the system.
        connect_timeout: Longest wait for a connection, in seconds.
        pgbouncer: The URL leads to PgBouncer.
    """

    url: URL
    password: str | None = field(default=None, repr=False)
    tls: Literal["verify", "require", "disable"] | None = None
    tls_ca: Path | None = None
    connect_timeout: float = 5.0
    pgbouncer: bool = False
