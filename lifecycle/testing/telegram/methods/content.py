"""What a message of the bot shows: text, a file, a place, a poll, an invoice."""

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from lifecycle.testing.telegram.calls import ApiCall, Json, UploadedFile
from lifecycle.testing.telegram.files import KINDS, Files
from lifecycle.testing.telegram.html import HtmlError, parse
from lifecycle.testing.telegram.http.refusals import RefusedError

_TEXTS: Final = ("text", "entities", "caption", "caption_entities")
_FILE_ID: Final = re.compile(r"[\w-]+", re.ASCII)
#: How the names of methods say it: `sendVideoNote`, `editMessageMedia`.
_METHODS: Final = {f"send{kind.replace('_', '')}": kind for kind in KINDS}

_polls = itertools.count(1)


def content_of(call: ApiCall, files: Files) -> Json:
    """Return the content of the message that *call* sends.

    Args:
        call: A call of `sendPhoto` and the like, or an edit.
        files: Keeps what is uploaded.

    Raises:
        RefusedError: Something is missing or malformed.
    """
    method, given = call.method.lower(), call.params
    if method == "editmessagemedia":
        return album_part(given.get("media"), call, files)
    content = _text_of(call)
    if kind := _METHODS.get(method):
        content[kind] = _file(kind, given.get(kind), given, files)
    elif other := _OTHERS.get(method):
        content |= other(given)
    return content


def album_part(media: Any, call: ApiCall, files: Files) -> Json:
    """Return the content of one part of an album.

    Args:
        media: An `InputMedia` object.
        call: The call that sends it.
        files: Keeps what is uploaded.

    Raises:
        RefusedError: It is malformed.
    """
    kind = media.get("type") if isinstance(media, dict) else None
    if kind not in KINDS:
        raise RefusedError(400, "Bad Request: can't parse InputMedia: type must be specified")
    part = _text_of(ApiCall(call.method, media, call.at))
    return {kind: _file(kind, media.get("media"), media, files), **part}


def without_caption(content: Json) -> Json:
    """Return *content* without its caption."""
    return {k: v for k, v in content.items() if k not in {"caption", "caption_entities"}}


def _file(kind: str, what: Any, given: Mapping[str, Any], files: Files) -> Any:
    """Return the file of a message: one that is uploaded, or was before, or has a link.

    Raises:
        RefusedError: It is none of these.
    """
    if isinstance(what, UploadedFile):
        return files.described(kind, files.keep(kind, what), given)
    if not what or not isinstance(what, str):
        raise RefusedError(400, f"Bad Request: there is no {kind.replace('_', ' ')} in the request")
    if what.startswith(("http://", "https://")):  # nothing is fetched
        return files.described(kind, files.name(kind, what), given)
    if _FILE_ID.fullmatch(what) is None:
        raise RefusedError(400, "Bad Request: wrong file identifier/HTTP URL specified")
    return files.described(kind, what, given)


def _needed(given: Mapping[str, Any], *names: str) -> Json:
    """Return the arguments with *names*.

    Raises:
        RefusedError: One is missing.
    """
    for name in names:
        if name not in given:
            raise RefusedError(400, f'Bad Request: parameter "{name}" is required')
    return {name: given[name] for name in names}


def _optional(given: Mapping[str, Any], *names: str) -> Json:
    return {name: given[name] for name in names if name in given}


def _contact(given: Mapping[str, Any]) -> Json:
    known = _needed(given, "phone_number", "first_name")
    return {"contact": {**known, **_optional(given, "last_name", "vcard")}}


def _location(given: Mapping[str, Any]) -> Json:
    return {"location": _needed(given, "latitude", "longitude")}


def _venue(given: Mapping[str, Any]) -> Json:
    return {"venue": {**_location(given), **_needed(given, "title", "address")}, **_location(given)}


def _dice(given: Mapping[str, Any]) -> Json:
    return {"dice": {"emoji": given.get("emoji", "🎲"), "value": 1}}  # the same for every test


def _poll(given: Mapping[str, Any]) -> Json:
    asked = _needed(given, "question", "options")
    options = [each if isinstance(each, str) else each["text"] for each in asked["options"]]
    poll = {
        "id": str(next(_polls)),
        "question": asked["question"],
        "options": [
            {"persistent_id": str(number), "text": text, "voter_count": 0}
            for number, text in enumerate(options)
        ],
        "total_voter_count": 0,
        "is_closed": False,
        "is_anonymous": given.get("is_anonymous", True),
        "type": given.get("type", "regular"),
        "allows_multiple_answers": given.get("allows_multiple_answers", False),
        "allows_revoting": False,
        "members_only": False,
    }
    return {"poll": poll}


def invoice(given: Mapping[str, Any]) -> Json:
    """Return the invoice that a message shows.

    Raises:
        RefusedError: Something is missing, or there is nothing to pay.
    """
    asked = _needed(given, "title", "description", "payload", "currency", "prices")
    total = sum(each["amount"] for each in asked["prices"])
    if total <= 0:
        raise RefusedError(400, "Bad Request: CURRENCY_TOTAL_AMOUNT_INVALID")
    if asked["currency"] != "XTR" and not given.get("provider_token"):
        raise RefusedError(400, "Bad Request: PAYMENT_PROVIDER_INVALID")
    shown = {key: asked[key] for key in ("title", "description", "currency")}
    start = given.get("start_parameter", "")
    return {"invoice": {**shown, "start_parameter": start, "total_amount": total}}


def _text_of(call: ApiCall) -> Json:
    """Return text or caption with its entities, as people see it.

    Raises:
        RefusedError: The HTML of the text cannot be parsed.
    """
    content: Json = {}
    for field, entities in (("text", "entities"), ("caption", "caption_entities")):
        if field not in call.params:
            continue
        content[field] = call.params[field]
        found = call.params.get(entities, [])
        if str(call.params.get("parse_mode")).lower() == "html":
            try:
                content[field], found = parse(call.params[field])
            except HtmlError as error:
                raise RefusedError(400, f"Bad Request: can't parse entities: {error}") from None
        if found:
            content[entities] = found
    return content


_OTHERS: Final[dict[str, Callable[[Mapping[str, Any]], Json]]] = {
    "sendcontact": _contact,
    "sendlocation": _location,
    "sendvenue": _venue,
    "senddice": _dice,
    "sendpoll": _poll,
    "sendinvoice": invoice,
}
#: Fields of a message that go along when it is forwarded or copied.
CONTENT: Final = frozenset(
    (*_TEXTS, *KINDS, "contact", "location", "venue", "dice", "poll", "invoice")
)
