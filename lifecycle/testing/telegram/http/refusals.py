"""How Telegram refuses a call: an error code, and its own words."""

from typing import Any

from lifecycle.testing.telegram.calls import Json

DESCRIPTIONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden: bot was blocked by the user",
    404: "Not Found",
    413: "Request Entity Too Large",
    409: "Conflict: terminated by other getUpdates request; "
    "make sure that only one bot instance is running",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
}


class RefusedError(Exception):
    """The call is answered with an error, in Telegram's words.

    Args:
        error_code: HTTP status and error code.
        description: Text of the error.
        **parameters: `retry_after`, `migrate_to_chat_id`.
    """

    def __init__(self, error_code: int, description: str, **parameters: Any) -> None:
        super().__init__(description)
        self.answer: Json = {"ok": False, "error_code": error_code, "description": description}
        if parameters:
            self.answer["parameters"] = parameters
