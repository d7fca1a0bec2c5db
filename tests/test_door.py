"""The first commands of a contributor: they are listed, and they check the same things."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")


def recipe(target: str) -> list[str]:
    """Return the commands of a target of the Makefile."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found is not None, f"no target {target}"
    return [line.strip() for line in found[1].splitlines()]


def test_make_lists_every_target() -> None:
    """`make` without a target lists all of them, each with a sentence."""
    listed = subprocess.run(
        ["make", "--no-print-directory"],  # noqa: S607 -- the make of PATH is the one in question
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    lines = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    assert [name for _, name, _ in lines] == phony[1].replace("\\\n", " ").split()
    assert all(sentence[0].isupper() for _, _, sentence in lines)


def test_hooks_check_what_make_checks() -> None:
    """The hooks before a commit are the commands of `make check`, on the files of the commit."""
    checks = [line.replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in recipe("check")]
    assert re.findall(r"entry: (.*)", HOOKS) == checks


def test_hooks_come_from_nowhere_else() -> None:
    """No hook is downloaded: each is a program of the virtual environment."""
    assert re.findall(r"repo: (.*)", HOOKS) == ["local"]
    languages = re.findall(r"language: (.*)", HOOKS)
    assert languages == ["system"] * HOOKS.count("- id: ")


def test_quick_names_tests_that_are_there() -> None:
    """Each name that `make quick` runs is a file of tests; one that moves to a room is found."""
    quick = re.search(r"^QUICK = ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    assert quick is not None
    files = {path.stem.removeprefix("test_") for path in ROOT.glob("tests/**/test_*.py")}
    assert set(quick[1].replace("\\\n", " ").split()) - files == set()
