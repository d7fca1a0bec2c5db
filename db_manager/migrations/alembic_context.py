"""What Alembic needs to run revisions: the files of a history, and a connection."""

import asyncio
import threading
import traceback
import warnings
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.exc import SAWarning

from db_manager.migrations.failure import MigrationError, MigrationsNotInstalledError
from db_manager.migrations.history import History, Step
from lifecycle.error_text import Told, add_reader, tell_text

if TYPE_CHECKING:
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

#: `op` and `context` in a revision are of the process: two upgrades at once would mix.
_alone: Final = threading.Lock()
#: How SQLAlchemy warns of an index on an expression, where it cannot read it.
UNREAD: Final = "Skipped unsupported reflection of expression-based index"
#: Names of the modules that Alembic makes of revisions, and of where a batch in one of them ends.
_REVISIONS: Final = r"(\w+_py|contextlib)\Z"
#: Seconds between looks whether another one has ended.
_PAUSE: Final = 0.01


@asynccontextmanager
async def alembic() -> AsyncIterator[None]:
    """Let one user at a time have Alembic.

    Raises:
        MigrationsNotInstalledError: It is not installed.
    """
    try:
        import alembic.script  # noqa: F401, PLC0415 -- 0.3 s, and only when there is something to do
    except ModuleNotFoundError:
        raise MigrationsNotInstalledError from None
    while not _alone.acquire(blocking=False):  # noqa: ASYNC110 -- of all threads, not of one loop
        await asyncio.sleep(_PAUSE)
    try:
        yield
    finally:
        _alone.release()


def run_files(history: History) -> "ScriptDirectory":
    """Run the files of a history, and return what Alembic makes of them.

    Args:
        history: The migrations of a plugin.

    Raises:
        MigrationError: A file cannot be run, or has no function `upgrade`.
    """
    from alembic.script import ScriptDirectory  # noqa: PLC0415 -- see above

    found = ScriptDirectory(str(history.folder), version_locations=[history.folder])
    try:
        scripts = list(found.walk_revisions())
    except Exception as error:
        revision = _culprit(error, history)
        what = f"{tell_text(error)}\nnothing was done; correct the file, and start again"
        raise MigrationError(history.plugin, revision, what) from error
    for script in reversed(scripts):
        if not hasattr(script.module, "upgrade"):
            what = f"{Path(script.path).name} has no function upgrade(); nothing was done"
            raise MigrationError(history.plugin, script.revision, what)
    warnings.filterwarnings("ignore", UNREAD, SAWarning, _REVISIONS)  # by them, and by nobody else
    return found


@contextmanager
def environment(
    scripts: "ScriptDirectory",
    history: History,
    connection: Connection | MockConnection,
    steps: Iterable[Step] = (),
    **options: Any,
) -> Iterator["EnvironmentContext"]:
    """Yield what stands for Alembic's `context` in the files: it runs *steps* on *connection*.

    Args:
        scripts: What `run_files` returned for *history*.
        history: The migrations of a plugin.
        connection: SQLAlchemy's connection, or what prints instead.
        steps: What `run_migrations` does, one after the other.
        **options: For Alembic's `context.configure`.
    """
    from alembic.config import Config  # noqa: PLC0415 -- see above
    from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415 -- the same
    from alembic.runtime.migration import RevisionStep  # noqa: PLC0415 -- the same

    def run(*_: object) -> Iterator[RevisionStep]:
        for step in steps:
            script = scripts.get_revision(step.revision)
            yield RevisionStep(scripts.revision_map, script, step.verb == "upgrade")

    with EnvironmentContext(Config(), scripts) as context:
        versions = history.version_table
        context.configure(connection, version_table=versions, fn=run, **options)  # type: ignore[arg-type]  # what prints, too
        yield context


def _culprit(error: Exception, history: History) -> str:
    """Return the revision whose file cannot be run; empty when the error does not say."""
    files = {str(each.file): each.id for each in history.revisions}
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    named = [getattr(error, "filename", None), *frames]  # a SyntaxError has it
    return next((files[each] for each in named if each in files), "")


def _of_alembic(error: BaseException) -> Told:
    """Tell the text of an error of Alembic's own: it is about revisions, and no row is in it."""
    return type(error).__name__, [" ".join(str(error).split())]


add_reader(("alembic",), _of_alembic)
