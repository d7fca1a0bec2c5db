"""Runs a command of Alembic's on a connection, with a configuration that is made in memory."""

import asyncio
import threading
import warnings
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.exc import SAWarning

from db_manager.migrations.failure import MigrationError, MigrationsNotInstalledError
from db_manager.migrations.history import History
from lifecycle.error_text import Told, add_reader, tell_text

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext

#: Where Alembic finds `env.py` and the template of a revision.
ENVIRONMENT: Final = Path(__file__).parent / "environment"
#: `op` and `context` in a revision are of the process: two upgrades at once would mix.
_alone: Final = threading.Lock()
#: Seconds between looks whether another one has ended.
_PAUSE: Final = 0.01

Admit = Callable[["MigrationContext"], bool]
Finish = Callable[["MigrationContext"], None]


@asynccontextmanager
async def alembic() -> AsyncIterator[Any]:
    """Yield Alembic's module of commands, for one user at a time.

    Raises:
        MigrationsNotInstalledError: Alembic is not installed.
    """
    try:
        from alembic import command  # noqa: PLC0415 -- 0.3 s, and only when there is something to do
    except ModuleNotFoundError:
        raise MigrationsNotInstalledError from None
    while not _alone.acquire(blocking=False):  # noqa: ASYNC110 -- of all threads, not of one loop
        await asyncio.sleep(_PAUSE)
    try:
        yield command
    finally:
        _alone.release()


def configured(
    history: History,
    connection: Connection | MockConnection | None = None,
    *,
    admit: Admit = lambda _: True,
    finish: Finish = lambda _: None,
    output: Any = None,
    **options: Any,
) -> "Config":
    """Return what a command of Alembic's needs for *history*.

    Args:
        history: The migrations of a plugin.
        connection: SQLAlchemy's connection, or what prints instead; None to only read the files.
        admit: Called in the transaction, before the migrations; False leaves them out.
        finish: Called in the transaction, after them.
        output: Where SQL is printed.
        **options: For Alembic's `context.configure`.
    """
    from alembic.config import Config  # noqa: PLC0415 -- see above

    quiet = Namespace(quiet=True)
    config = Config(output_buffer=output, cmd_opts=quiet)
    for name, value in {
        "script_location": ENVIRONMENT,
        "version_locations": history.folder,
        "path_separator": "newline",
    }.items():
        config.set_main_option(name, str(value).replace("%", "%%"))
    config.attributes["admit"] = admit
    config.attributes["finish"] = finish
    config.attributes["options"] = {
        "connection": connection,
        "version_table": history.version_table,
        "transactional_ddl": None,
        **options,
    }
    return config


@contextmanager
def unread() -> Iterator[None]:
    """Do not warn of indexes on expressions, which cannot be read on every database."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*expression", SAWarning)
        warnings.filterwarnings("ignore", "autogenerate skipping")
        yield


def check_files(history: History) -> None:
    """Run the files of a history, as Alembic does before it applies any of them.

    Args:
        history: The migrations of a plugin.

    Raises:
        MigrationError: A file cannot be run, or has no function `upgrade`.
    """
    from alembic.script import ScriptDirectory  # noqa: PLC0415 -- see above

    try:
        scripts = list(ScriptDirectory.from_config(configured(history)).walk_revisions())
    except Exception as error:
        revision = _culprit(error, history)
        what = f"{tell_text(error)}\nnothing was done; correct the file, and start again"
        raise MigrationError(history.plugin, revision, what) from error
    for script in reversed(scripts):
        if not hasattr(script.module, "upgrade"):
            what = f"{Path(script.path).name} has no function upgrade(); nothing was done"
            raise MigrationError(history.plugin, script.revision, what)


def _culprit(error: Exception, history: History) -> str:
    """Return the revision whose file cannot be run; empty when the error does not say."""
    files = {str(each.file): each.id for each in history.revisions}
    named = error.filename if isinstance(error, SyntaxError) else None
    traceback = error.__traceback__
    found = files.get(named or "", "")
    while traceback is not None and not found:
        found = files.get(traceback.tb_frame.f_code.co_filename, "")
        traceback = traceback.tb_next
    return found


def _of_alembic(error: BaseException) -> Told:
    """Tell the text of an error of Alembic's own: it is about revisions, and no row is in it."""
    return type(error).__name__, [" ".join(str(error).split())]


add_reader(("alembic",), _of_alembic)
