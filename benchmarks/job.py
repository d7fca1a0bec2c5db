"""Runs one module's measurement in a process of its own: `python -m benchmarks.job NAME FILE`.

The scale comes as JSON on standard input, the section goes as JSON into the file: modules share no
event loop, no memory and no garbage with each other.
"""

import asyncio
import importlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import msgspec

from benchmarks.report import Scale, Section


def run_apart(module: str, scale: Scale) -> Section:
    """Return what *module* measures, in a new process.

    Args:
        module: Name of a module of this folder.
        scale: How much it measures.

    Raises:
        RuntimeError: It failed; the text is what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "section.json"
        done = subprocess.run(  # noqa: S603 -- this very program
            [*scale.python, "-m", "benchmarks.job", module, str(answer)],
            input=json.dumps(asdict(scale)),
            text=True,
            capture_output=True,
            check=False,
            cwd=Path(__file__).parents[1],
            env={name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"},
        )
        if done.returncode or not answer.exists():
            raise RuntimeError(f"benchmarks.{module} failed:\n{done.stdout}{done.stderr}")
        return msgspec.json.decode(answer.read_bytes(), type=Section)


def main() -> None:
    """Measure, under the event loop that the scale names."""
    module, answer = sys.argv[1:]
    scale = msgspec.json.decode(sys.stdin.buffer.read(), type=Scale)
    measuring = importlib.import_module(f"benchmarks.{module}").measure(scale)
    if scale.loop == "uvloop":
        import uvloop  # noqa: PLC0415 -- of the group `bench`

        section = uvloop.run(measuring)
    else:
        section = asyncio.run(measuring)
    Path(answer).write_bytes(msgspec.json.encode(section))


if __name__ == "__main__":
    main()
