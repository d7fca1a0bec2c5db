"""The database plugin for aiogram 3: engine, unit of work, middleware, Base.

The names below are imported when they are first used: a worker that makes units of work never
pays for aiogram, and a tool that reads the configuration never pays for SQLAlchemy.
"""

from typing import TYPE_CHECKING

from lifecycle.lazy import lazy_exports as _lazy_exports

if TYPE_CHECKING:
    from db_manager.backups.backup import backup
    from db_manager.base import NAMING_CONVENTION, Base
    from db_manager.config import DatabaseConfig
    from db_manager.database.open_unit import UnitState
    from db_manager.drift.difference import SchemaDriftError
    from db_manager.engine.create import create_engine
    from db_manager.errors import (
        BackupError,
        CommitOutcomeUnknownError,
        ConfigError,
        DatabaseUnavailableError,
        DbManagerError,
        EndTimeoutError,
        ManagerClosedError,
        PoolExhaustedError,
        ReadOnlyUnsupportedError,
        RetriesExhaustedError,
        TableNameError,
        TransactionAbortedError,
        TransactionEndedError,
        UnitOfWorkStateError,
        UnitOfWorkTaskError,
        WrongEventLoopError,
    )
    from db_manager.middleware import DatabaseData
    from db_manager.migrations.failure import (
        MigrationError,
        MigrationsNotInstalledError,
        MigrationsPendingError,
    )
    from db_manager.plugin import DatabasePlugin
    from db_manager.sending import (
        DeliveryOffError,
        EarlyCallError,
        MessageDeadError,
        MessageUnknownError,
        NotStorableError,
        Sending,
    )
    from db_manager.unit.factory import UnitOfWorkFactory
    from db_manager.unit.parts.legacy import LegacySessionWarning
    from db_manager.unit.resolve import resolve
    from db_manager.unit.uow import UnitOfWork
else:
    __getattr__, __dir__ = _lazy_exports(
        __name__,
        {
            "backups.backup": ("backup",),
            "base": ("Base", "NAMING_CONVENTION"),
            "config": ("DatabaseConfig",),
            "drift.difference": ("SchemaDriftError",),
            "engine.create": ("create_engine",),
            "errors": (
                "BackupError",
                "CommitOutcomeUnknownError",
                "ConfigError",
                "DatabaseUnavailableError",
                "DbManagerError",
                "EndTimeoutError",
                "ManagerClosedError",
                "PoolExhaustedError",
                "ReadOnlyUnsupportedError",
                "RetriesExhaustedError",
                "TableNameError",
                "TransactionAbortedError",
                "TransactionEndedError",
                "UnitOfWorkStateError",
                "UnitOfWorkTaskError",
                "WrongEventLoopError",
            ),
            "unit.factory": ("UnitOfWorkFactory",),
            "unit.parts.legacy": ("LegacySessionWarning",),
            "middleware": ("DatabaseData",),
            "migrations.failure": (
                "MigrationError",
                "MigrationsNotInstalledError",
                "MigrationsPendingError",
            ),
            "database.open_unit": ("UnitState",),
            "plugin": ("DatabasePlugin",),
            "sending": (
                "DeliveryOffError",
                "EarlyCallError",
                "MessageDeadError",
                "MessageUnknownError",
                "NotStorableError",
                "Sending",
            ),
            "unit.resolve": ("resolve",),
            "unit.uow": ("UnitOfWork",),
        },
    )

__all__ = [
    "NAMING_CONVENTION",
    "BackupError",
    "Base",
    "CommitOutcomeUnknownError",
    "ConfigError",
    "DatabaseConfig",
    "DatabaseData",
    "DatabasePlugin",
    "DatabaseUnavailableError",
    "DbManagerError",
    "DeliveryOffError",
    "EarlyCallError",
    "EndTimeoutError",
    "LegacySessionWarning",
    "ManagerClosedError",
    "MessageDeadError",
    "MessageUnknownError",
    "MigrationError",
    "MigrationsNotInstalledError",
    "MigrationsPendingError",
    "NotStorableError",
    "PoolExhaustedError",
    "ReadOnlyUnsupportedError",
    "RetriesExhaustedError",
    "SchemaDriftError",
    "Sending",
    "TableNameError",
    "TransactionAbortedError",
    "TransactionEndedError",
    "UnitOfWork",
    "UnitOfWorkFactory",
    "UnitOfWorkStateError",
    "UnitOfWorkTaskError",
    "UnitState",
    "WrongEventLoopError",
    "backup",
    "create_engine",
    "resolve",
]
