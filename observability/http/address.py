"""Where the endpoint answers: reads an address as people write it."""

import re
from typing import Final

_ADDRESS: Final = re.compile(
    r"(?:(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<host>[^:\[\]]*)):)?(?P<port>[0-9]{1,5})", re.IGNORECASE
)


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of an address.

    Args:
        address: `host:port`, `[::1]:port`, or a port, which is on loopback then.

    Raises:
        ValueError: It is none of these.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) >= 2**16:
        raise ValueError(f"{address!r} is no address: write host:port, as 127.0.0.1:9100")
    return found["v6"] or found["host"] or "127.0.0.1", int(found["port"])
