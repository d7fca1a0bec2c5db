"""The public surface: every name that may be imported, as a list that changes only on purpose.

A name that is not here may move or go in any release. Whoever adds one promises to keep it.
"""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "db_manager": """
        BackupError Base CommitOutcomeUnknownError ConfigError DatabaseConfig DatabaseData
        DatabasePlugin DatabaseUnavailableError DbManagerError DeliveryOffError EarlyCallError
        EndTimeoutError LegacySessionWarning ManagerClosedError MessageDeadError MessageUnknownError
        MigrationError MigrationsNotInstalledError MigrationsPendingError NAMING_CONVENTION
        NotStorableError PoolExhaustedError ReadOnlyUnsupportedError RetriesExhaustedError
        SchemaDriftError Sending TableNameError TransactionAbortedError
        TransactionEndedError UnitOfWork UnitOfWorkFactory UnitOfWorkStateError
        UnitOfWorkTaskError UnitState WrongEventLoopError backup create_engine resolve
    """,
    "db_manager.delivery": """
        BroadcastCounts Broadcasts DeliveryConfig DeliveryPlugin EACH OutgoingEvent SqlStorage
        UpdateCompletedError UpdateTakenError webhook
    """,
    "db_manager.events": """
        BroadcastEnded BroadcastEvent BroadcastProgress Cause ChatBlocked ChatMigrated
        DatabaseDrained DatabaseDrifted DatabaseEvent DeliveryBehind DeliveryCaughtUp
        DeliveryUnsafe EarlyCall JoinMode JoinOutcome LanesRecovered MemberEvent
        MemberExpelled MemberJoined MessageDead MessageEvent MessageRetried MessageSent
        MessageUnknown Migrated Migrating MigrationEvent MigrationFailed Outcome
        PoolExhausted ReplicaLost ReplicaRecovered TablesCreated UnitBegun
        UnitCallbackFailed UnitClosed UnitCommitted UnitEvent UnitJoined UnitLeft
        UnitOutcomeUnknown UnitRetried UnitRolledBack UnitSlow UnitStatement UpdateDone
        UpdateEvent UpdateParked UpdateRepeated UpdateRetried UpdateStored UpdateTaken
    """,
    "db_manager.testing": """
        Databases Faults ImpossibleFaultError Migrations Outbox OutboxMessage Sandbox
    """,
    "lifecycle": """
        AppCrashed AppDrained AppStarted AppStopped AppStopping Application ConfigError
        ContextClosedError Correlation Event EventBus Health HookTimeoutError
        IllegalHistoryError Journal JournalCorruptError JournalEntry JournalError
        JournalLockedError LifecycleError MemoryJournal Plugin PluginContext PluginDegraded
        PluginEvent PluginFailed PluginFailedError PluginLoaded PluginLoading PluginRecovered
        PluginStarted PluginStarting PluginStopped PluginStopping PluginUnloaded
        PluginUnloading ServiceNotFoundError ServiceProvided ServiceRegistry ServiceWithdrawn
        SqliteJournal State SubscriberFailed SubscriberOverflowed Subscription
        TransitionNotAllowedError WiringError correlate current_correlation replay to_mermaid
    """,
    "lifecycle.bot": "attach include_data include_router is_draining run_polling",
    "lifecycle.testing": """
        ApiCall BotApiChat BotApiServer BotApiUser BotMessage CallbackAnswer InlineAnswer Line
        LocalTelegram NoReplyError Payment Transcript UploadedFile
    """,
    "observability.logs": "Format LogLines add_correlation attach",
    "observability.metrics": "Metrics Probes attach",
    "observability.spans": "Spans attach",
    "observability.testing": "EventRecorder Story record",
    "observability.timeline": "render write",
}
#: What the command `db-manager` calls in a module that is also one of its commands.
COMMAND = {"add_arguments", "run"}


def offered(module: ModuleType) -> set[str]:
    """Return the public names of a module: its `__all__`, else what it defines itself."""
    named = getattr(module, "__all__", None)
    if named is not None:
        return set(named)
    home = module.__name__
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and f"{getattr(value, '__module__', '')}.".startswith(f"{home}.")
    }


@pytest.mark.parametrize("front", PUBLIC)
def test_a_front_offers_what_the_list_says(front: str) -> None:
    """No name comes or goes unless this list is changed with it."""
    assert offered(importlib.import_module(front)) - COMMAND == set(PUBLIC[front].split())


@pytest.mark.parametrize("front", PUBLIC)
def test_every_public_name_can_be_imported(front: str) -> None:
    """`from front import name` works for each name of the list."""
    module = importlib.import_module(front)
    for name in PUBLIC[front].split():
        assert getattr(module, name) is not None


def test_the_site_has_a_reference_of_every_public_name(tmp_path: Path) -> None:
    """The site is built without a warning, and says something of each class and function."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    subprocess.run([*build, "--site-dir", str(tmp_path)], cwd=ROOT, check=True)
    for front, names in PUBLIC.items():
        page = (tmp_path / "api" / f"{front}.html").read_text(encoding="utf-8")
        module = importlib.import_module(front)
        described = {
            f"{front}.{name}"
            for name in names.split()
            if inspect.isclass(getattr(module, name)) or inspect.isroutine(getattr(module, name))
        }
        assert described
        assert described - set(re.findall(r'id="([\w.]+)"', page)) == set()
