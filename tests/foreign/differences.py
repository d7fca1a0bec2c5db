"""What of other projects' tests is different on purpose with our parts, and why.

Each reason stands in the table "Deliberate differences" of docs/units.md.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """A rule of ours that some of their tests meet.

    Args:
        reason: The rule.
        shows: What the failure says when it is this one; a regular expression.
        tests: Their names, `Class.test`; all parameters of a test, or some: `Class.test[a`.
    """

    reason: str
    shows: str
    tests: tuple[str, ...]

    @staticmethod
    def names(test: str, found: str) -> bool:
        """Return True when the listed *test* is the one that pytest calls *found*."""
        name = ".".join(found.split("::")[1:])
        return name == test or name.startswith(test + ("" if "[" in test else "["))

    def explains(self, found: str, raised: str) -> bool:
        """Return True when *found*, which raised *raised*, is different by this rule."""
        named = any(self.names(test, found) for test in self.tests)
        return named and re.search(self.shows, raised) is not None


_REFUSED = r"is not (allowed in the block|for a unit)"

SQLALCHEMY = (
    Difference(
        "a unit ends once: it cannot be used after its commit or rollback, nor can its session",
        r"cannot be used now: the unit of work is (committed|rolled_back)|is not persistent within|"
        r"the connection of this unit was invalidated before the block ended",
        (
            "AsyncCascadesTest.test_delete_w_cascade",
            "AsyncEngineTest.test_interrupt_ctxmanager_connection",
            "AsyncEngineTest.test_invalidate",
            "AsyncORMBehaviorsTest.test_new_style_active_history[new_style",
            "AsyncSessionTransactionTest.test_interrupt_ctxmanager_connection",
            "AsyncSessionTransactionTest.test_merge",
            "AsyncSessionTransactionTest.test_merge_loader_options",
        ),
    ),
    Difference(
        "the unit begins and ends the transaction: there is no other begin, and no handle of it",
        _REFUSED + r"|AsyncConnection.connection accessor is not implemented",
        (
            "AsyncEngineTest.test_appropriate_warning_for_gced_connection",
            "AsyncEngineTest.test_conn_transaction_not_started",
            "AsyncEngineTest.test_engine_aclose",
            "AsyncEngineTest.test_transaction_accessor",
            "AsyncEngineTest.test_transaction_eq_ne",
            "AsyncEngineTest.test_transaction_rollback",
            "AsyncProxyTest.test_async_object_session",
            "AsyncProxyTest.test_get_connection_kws",
            "AsyncProxyTest.test_get_transaction",
            "AsyncProxyTest.test_get_transaction_gced",
            "AsyncSessionTransactionTest.test_connections_engine_bind",
            "AsyncSessionTransactionTest.test_invalidate",
            "AsyncSessionTransactionTest.test_trans_noctx",
        ),
    ),
    Difference(
        "a savepoint is one of all lanes: `uow.savepoint()`, not `connection.begin_nested()`",
        r"connection\.begin_nested\(\) is not allowed in the block",
        (
            "AsyncEngineTest.test_interrupt_ctxmanager_connection",
            "AsyncEngineTest.test_savepoint_commit_noctx",
            "AsyncEngineTest.test_savepoint_rollback_noctx",
            "AsyncProxyTest.test_get_nested_transaction",
        ),
    ),
    Difference(
        "one task, one unit: a second one could wait for the connection that the first one holds",
        r"this task has a unit of work open already",
        (
            "AsyncEngineTest.test_dispose",
            "AsyncEngineTest.test_dispose_no_close",
            "AsyncEngineTest.test_init_once_concurrency",
            "AsyncEngineTest.test_pool_exhausted_no_timeout",
            "AsyncEngineTest.test_pool_exhausted_some_timeout",
        ),
    ),
    Difference(
        "lazy begin: no connection, no transaction and no event before the first statement",
        r"did not raise an exception|_Unconnected|in_transaction\(\)|SyncUnitSession object|"
        r"base\.Connection object|no connection before its first statement|"
        r"'NoneType' object has no attribute '(is_active|bound_connection)'",
        (
            "AsyncEngineTest.test_async_creator_handle_error",
            "AsyncEngineTest.test_connection_info",
            "AsyncEngineTest.test_connection_not_started",
            "AsyncEventTest.test_event_on_sync_connection",
            "AsyncEventTest.test_sync_before_cursor_execute_connection",
            "AsyncEventTest.test_sync_before_cursor_execute_engine",
            "AsyncSessionTransactionTest.test_async_sessionmaker_block_one",
            "AsyncSessionTransactionTest.test_async_sessionmaker_block_two",
            "AsyncSessionTransactionTest.test_bound_connection_async_bind",
            "AsyncSessionTransactionTest.test_connections_invalidated",
            "AsyncSessionTransactionTest.test_orm_sessionmaker_block_one",
            "AsyncSessionTransactionTest.test_orm_sessionmaker_block_two",
        ),
    ),
    Difference(
        "a unit makes its session itself: of one engine, on one connection, of one class",
        _REFUSED + r"|Can't translate bind|SyncUnitSession'> is not|did not raise an exception|"
        r"AsyncEngine object at \w+> is not <\S+AsyncConnection",
        (
            "AsyncBindAttributeTest.test_bind_async_connection",
            "AsyncBindAttributeTest.test_bind_default_none",
            "AsyncBindAttributeTest.test_bind_mapper_table",
            "AsyncBindAttributeTest.test_bind_settable",
            "AsyncBindAttributeTest.test_binds_empty_by_default",
            "AsyncBindAttributeTest.test_binds_from_constructor",
            "AsyncBindAttributeTest.test_binds_immutable",
            "AsyncBindAttributeTest.test_binds_used_by_get_bind",
            "AsyncBindAttributeTest.test_get_async_bind",
            "AsyncBindAttributeTest.test_get_async_bind_connection",
            "AsyncProxyTest.test_get_connection_connection_bound",
            "AsyncSessionTest.test_requires_async_engine",
            "AsyncSessionTransactionTest.test_connections_connection_bind",
            "AsyncSessionTransactionTest.test_join_to_external_transaction",
            "AsyncSessionTransactionTest.test_join_to_external_transaction_with_savepoints",
            "OverrideSyncSession.test_default",
            "OverrideSyncSession.test_init_asyncio_sessionmaker",
            "OverrideSyncSession.test_init_class",
            "OverrideSyncSession.test_init_orm_sessionmaker",
        ),
    ),
    Difference(
        "objects stay readable after the commit: nothing expires",
        r"\.expired|did not raise an exception",
        (
            "AsyncAttrsTest.test_lazyloaders",
            "AsyncORMBehaviorsTest.test_new_style_active_history[legacy_style",
        ),
    ),
    Difference(
        "a lane is an object of its unit, and not one that is made anew for a connection",
        r"1 != [02]|AsyncConnection object at \w+> (!=|is not) ",
        (
            "AsyncEngineTest.test_connection_eq_ne",
            "AsyncProxyTest.test_gc",
            "AsyncProxyTest.test_gc_conn",
            "AsyncProxyTest.test_get_connection",
        ),
    ),
    Difference(
        "a driver that is not async is refused with the configuration, not by each statement",
        r"did not raise an exception",
        ("TextSyncDBAPI.test_sync_driver_execution[<lambda>2",),
    ),
)
AIOGRAM = (
    Difference(
        "`attach` stands in for `emit_startup`: the application starts before the first hook",
        r"Expected emit_startup to have been awaited",
        ("TestDispatcher.test_start_polling",),
    ),
    Difference(
        "`attach` stands in for `start_polling`: it hears signals beside other bots",
        r"Expected start_polling to have been awaited once",
        ("TestDispatcher.test_run_polling",),
    ),
)
