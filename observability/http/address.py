"""Parses the address of the HTTP endpoint."""

import re
from typing import Final

_ADDRESS: Final = re.compile(
    r"(?:(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<host>[^:\[\]]*)):)?(?P<port>[0-9]{1,5})", re.IGNORECASE
)


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of an address.

    Args:
        address: `host:port`, `[::1]:port`, or a port alone for 127.0.0.1.

    Raises:
        ValueError: It has none of these forms.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) >= 2**16:
        raise ValueError(
            f"{address!r} is not an address; write host:port, for example 127.0.0.1:9100"
        )
    return found["v6"] or found["host"] or "127.0.0.1", int(found["port"])
