"""The journal: the append-only history of facts, in memory or in a SQLite file.

Outside of this package only the names below are imported.
"""

from lifecycle.journal.file import Run, encode_event
from lifecycle.journal.memory import MemoryJournal
from lifecycle.journal.port import Journal, JournalEntry, UnknownEvent
from lifecycle.journal.reader import JournalReader
from lifecycle.journal.sqlite import SqliteJournal

__all__ = [
    "Journal",
    "JournalEntry",
    "JournalReader",
    "MemoryJournal",
    "Run",
    "SqliteJournal",
    "UnknownEvent",
    "encode_event",
]
