"""A program in a forked process is what it is in a fresh one, but for what is imported already."""

import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
from support.forks import forked
from support.programs import said_by

#: Says what a program can see of how it was started.
SEES = """
import os, sys, warnings
print(__name__, sys.argv[1:], os.getcwd(), os.environ.get("SAID"), sys.stdin.read())
print(sys.path[0] or os.getcwd(), sys.modules["__main__"].__dict__ is globals())
print(sys.warnoptions, warnings.filters[0][0])
print("to both", file=sys.stderr)
sys.exit(3)
"""
#: Is at work when its main thread has come to the end.
ENDS = """
import atexit, threading, time
def work():
    time.sleep(0.1)
    print("a thread has ended")
threading.Thread(target=work).start()
atexit.register(print, "at exit")
print("the end")
"""
#: Says that it is there, what it hears, and then waits for its end.
HEARS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("there", flush=True)
print("heard", signal.sigwait([signal.SIGINT]).name, flush=True)
signal.pause()
"""
LISTS = "import sys; print({'aiogram', 'sqlalchemy', 'db_manager', 'lifecycle'} & set(sys.modules))"


@pytest.mark.parametrize("way", ["-c", "-m", "file"])
def test_a_program_sees_the_same(tmp_path: Path, way: str) -> None:
    """Arguments, folder, environment, streams, warnings, path, and its exit code."""
    (tmp_path / "below").mkdir()
    (tmp_path / "sees.py").write_text(SEES)
    (tmp_path / "below" / "sees.py").write_text(SEES)
    what = {"-c": ("-c", SEES), "-m": ("-m", "sees"), "file": ("below/sees.py",)}[way]
    command = ("-W", "error", *what, "one", "two words")
    fresh, fork = (
        subprocess.run(
            [*python, *command],
            cwd=tmp_path,
            env={"SAID": "é"},
            input="line",
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        for python in ((sys.executable,), forked())
    )
    assert (fork.returncode, fork.stdout, fork.stderr) == (3, fresh.stdout, "to both\n")


def test_a_program_ends_as_an_interpreter_does(tmp_path: Path) -> None:
    """It waits for its threads, and does what is left for its end."""
    said = said_by(*forked("-c", ENDS), cwd=tmp_path)
    assert said.splitlines() == ["the end", "a thread has ended", "at exit"]


def test_a_program_gets_its_signals() -> None:
    """What it handles is handled, and what ends it is told."""
    with subprocess.Popen(forked("-c", HEARS), stdout=PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "there\n"
        program.send_signal(signal.SIGINT)
        assert program.stdout.readline() == "heard SIGINT\n"
        program.terminate()
        assert program.wait() == -signal.SIGTERM


def test_a_killed_program_is_dead_before_the_next_begins(tmp_path: Path) -> None:
    """Though it is the launcher that is killed."""
    here = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen(forked("-c", here), stdout=PIPE, text=True) as program:
        assert program.stdout is not None
        pid = program.stdout.readline().strip()
        program.kill()
        assert program.wait() == -signal.SIGKILL
    looks = f"import os; os.kill({pid}, 0)"
    assert "ProcessLookupError" in said_by(*forked("-c", looks), cwd=tmp_path, code=1)


def test_the_libraries_are_imported_and_nothing_of_ours(tmp_path: Path) -> None:
    """A program pays for our packages alone, and imports those that it finds."""
    said = said_by(*forked("-c", LISTS), cwd=tmp_path)
    assert eval(said) == {"aiogram", "sqlalchemy"}  # noqa: S307 -- it is what we have printed
