"""Who said what and when, and the error that shows it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the transcript: who did what, *at* seconds after the server was made."""

    at: float
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:9.3f} s  {self.who}: {self.what}"


class Transcript(list[Line]):
    """Who said what and when; `str()` is the text to read."""

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "(nobody said anything)"


class NoReplyError(AssertionError):
    """The bot did not do what the test waited for; the text holds the whole transcript."""
