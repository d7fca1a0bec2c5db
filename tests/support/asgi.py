"""Calls a web application without a server."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]


async def call(app: Application, method: str, path: str, form: str = "") -> tuple[int, str]:
    """Return the status and the text that *app* answers.

    Args:
        app: The application.
        method: The method.
        path: The path, perhaps with a query.
        form: The fields of a form, as a browser encodes them.
    """
    answers: list[Message] = []
    requests: list[Message] = [{"type": "http.request", "body": form.encode()}]

    async def receive() -> Message:
        return requests.pop() if requests else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answers.append(message)

    name, _, query = path.partition("?")
    scope: Message = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": name,
        "raw_path": name.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"application/x-www-form-urlencoded"),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
    }
    await app(scope, receive, send)
    text = b"".join(answer.get("body", b"") for answer in answers).decode()
    return answers[0]["status"], text
