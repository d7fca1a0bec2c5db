"""An event for a broker, as a row of the outbox keeps it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from pydantic import BaseModel

from db_manager.sending import NotStorableError

#: The number that a broker has in the place of a bot.
BROKER: Final = 0
#: What all brokers take for a name: words between dots.
_SUBJECT: Final = re.compile(r"[\w-]+(?:\.[\w-]+)*", re.ASCII)
#: Most characters of a subject, and of a key.
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """What a broker is given.

    Args:
        id: Its own in the whole world, by which a second copy of it is known.
        subject: What it is about: of NATS the subject, of RabbitMQ the routing key, of Redis the
            stream, of Kafka the topic.
        key: Events with one key come in order; empty for none.
        body: What it says.
    """

    id: str
    subject: str
    key: str
    body: Any = field(repr=False)  # what a user may have written


def written(subject: str, payload: Any, key: str) -> dict[str, Any]:
    """Return the row of an event.

    Args:
        subject: What it is about.
        payload: What it says: of JSON's types, or a model of pydantic.
        key: Events with one key come in order.

    Raises:
        NotStorableError: JSON does not know something in *payload*.
        ValueError: *subject* is no words between dots, or it or *key* is too long.
    """
    if not _SUBJECT.fullmatch(subject):
        raise ValueError(
            f"{subject!r} is no subject: write words of letters, digits, _ and -, with dots "
            f"between them, as 'notes.added'"
        )
    for what, said in {"subject": subject, "key": key}.items():
        if len(said) > _LONGEST:
            raise ValueError(f"a {what} has at most {_LONGEST} characters, and this {len(said)}")
    number = uuid4().hex
    body = payload.model_dump(mode="json") if isinstance(payload, BaseModel) else payload
    try:
        kept = json.dumps({"id": number, "key": key, "body": body}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise NotStorableError(subject, "payload", f"is no JSON: {error}") from error
    return {
        "bot_id": BROKER,
        "lane": f"{BROKER}:{key or f'-{number}'}",
        "method": subject,
        "payload": kept,
        "once": False,
        "due": None,
    }


def read(subject: str, payload: str) -> OutgoingEvent:
    """Return the event of a row.

    Args:
        subject: Its column `method`.
        payload: Its column `payload`.
    """
    kept: Mapping[str, Any] = json.loads(payload)
    return OutgoingEvent(kept["id"], subject, kept["key"], kept["body"])
