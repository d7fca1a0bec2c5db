"""PostgreSQL's protocol as messages: where each begins, and which statement it is about."""

import dataclasses
import struct
from collections.abc import Iterator

_CODES = {80877102: b"cancel", 80877103: b"tls", 80877104: b"tls"}  # TLS, or GSSAPI's encryption


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Args:
        kind: Its type byte; of those without one `startup`, `cancel` or `tls`.
        body: What follows the length.
        raw: All of it, as it passes.
    """

    kind: bytes
    body: bytes
    raw: bytes


class Messages:
    """Cuts one direction of a connection into messages.

    Args:
        login: True for the client's direction, which begins with messages without a type.
    """

    def __init__(self, *, login: bool) -> None:
        self._login = login
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Add *data*; yield each message that is complete."""
        self._buffer += data
        while message := self._next():
            yield message

    def _next(self) -> Message | None:
        start = 0 if self._login else 1
        if len(self._buffer) < start + 4:
            return None
        (length,) = struct.unpack_from("!I", self._buffer, start)
        end = start + length
        if len(self._buffer) < end:
            return None
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        if not self._login:
            return Message(raw[:1], raw[5:], raw)
        (code,) = struct.unpack_from("!I", raw, 4)
        kind = _CODES.get(code, b"startup")
        self._login = kind != b"startup"
        return Message(kind, raw[4:], raw)


class Statements:
    """Knows the text of each statement that one client prepared."""

    def __init__(self) -> None:
        self._prepared: dict[bytes, bytes] = {}
        self._portals: dict[bytes, bytes] = {}

    def text(self, message: Message) -> bytes:
        """Return the statement that a client's message is about; nothing when it is about none."""
        match message.kind:
            case b"Q":
                return message.body.rstrip(b"\0")
            case b"P":
                name, text = message.body.split(b"\0", 2)[:2]
                self._prepared[name] = text
                return text
            case b"B":
                portal, name = message.body.split(b"\0", 2)[:2]
                text = self._portals[portal] = self._prepared.get(name, b"")
                return text
            case b"E":
                return self._portals.get(message.body.split(b"\0", 1)[0], b"")
        return b""
