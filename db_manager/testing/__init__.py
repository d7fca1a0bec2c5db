"""The database part of the test kit: a sandbox for each test, its faults, migrations, messages.

In pytest they are the fixtures `sandbox`, `faults`, `migrations` and `outbox`
(`db_manager.pytest_plugin`).
"""

from db_manager.testing.databases import Databases
from db_manager.testing.faults import Faults, ImpossibleFaultError
from db_manager.testing.messages import Outbox, OutboxMessage
from db_manager.testing.migrations import Migrations
from db_manager.testing.sandbox import Sandbox

__all__ = [
    "Databases",
    "Faults",
    "ImpossibleFaultError",
    "Migrations",
    "Outbox",
    "OutboxMessage",
    "Sandbox",
]
