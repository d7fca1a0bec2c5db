"""Finds a run in a journal."""

from lifecycle.errors import JournalError
from lifecycle.journal import JournalReader, Run


def find_run(reader: JournalReader, number: int | None) -> Run:
    """Return the run with a number; the last one for None.

    Raises:
        JournalError: There is no such run.
    """
    runs = reader.runs()
    if not runs:
        raise JournalError(f"journal {reader.path}: no run is recorded yet")
    if number is None:
        return runs[-1]
    for run in runs:
        if run.run == number:
            return run
    raise JournalError(
        f"journal {reader.path}: there is no run {number}, only {runs[0].run} to {runs[-1].run}"
    )


def is_live(reader: JournalReader, number: int) -> bool:
    """Return True while a process is writing this run."""
    return reader.is_live() and reader.runs()[-1].run == number
