"""The command `db-manager`: finds its subcommands, imports the one that is named, and runs it."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final, NoReturn, Protocol, cast

from lifecycle.errors import LifecycleError
from lifecycle.printable import printable_lines
from observability.commands.env_file import add_env_file, read_env_file

#: Entry points of this group are subcommands: modules of the shape `Command`.
COMMANDS: Final = "db_manager.commands"
#: Exit code of a program that was interrupted, by the convention of shells.
INTERRUPTED: Final = 130


class Command(Protocol):
    """A module that is a subcommand; the first line of its docstring is its help."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the subcommand to *parser*."""

    def run(self, options: argparse.Namespace) -> int:
        """Run the subcommand.

        Returns:
            The exit code.

        Raises:
            LifecycleError: It failed; the text is shown, and the exit code is 2.
        """
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `db-manager`.

    Args:
        arguments: The command line without the program's name; by default that of this process.

    Returns:
        The exit code: 0 for success, 1 when the command found a problem, 2 when it could not do
        its work.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode
    options = _parser(arguments).parse_args(arguments)
    command: Command = options.command
    try:
        if options.env_file is not None:
            read_env_file(options.env_file)
        code = command.run(options)
        sys.stdout.flush()
    except LifecycleError as error:
        sys.stderr.write(f"db-manager {options.subcommand}: {printable_lines(str(error))}\n")
        return 2
    except BrokenPipeError:
        # The reader closed the pipe; keep the interpreter from flushing the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="db-manager",
        description="Begins a bot, and inspects it: what happened, and whether it is set up right.",
    )
    parsers = parser.add_subparsers(
        title="commands", dest="subcommand", metavar="COMMAND", required=True
    )
    for entry_point in _wanted(arguments):
        command = cast("Command", entry_point.load())
        purpose = (command.__doc__ or "").partition("\n")[0]
        added = parsers.add_parser(entry_point.name, help=purpose, description=purpose)
        command.add_arguments(added)
        add_env_file(added)
        added.set_defaults(command=command)
    return parser


class _Parser(argparse.ArgumentParser):
    """Escapes the control characters of a wrong argument before the terminal gets them."""

    def error(self, message: str) -> NoReturn:
        """Show the usage and *message*, and exit with 2."""
        super().error(printable_lines(message))


def _wanted(arguments: Sequence[str]) -> list[EntryPoint]:
    """Return the named subcommand; all of them when none is named, for the help."""
    found = sorted(entry_points(group=COMMANDS), key=lambda each: each.name)
    named = [each for each in found if arguments and each.name == arguments[0]]
    return named or found


if __name__ == "__main__":
    sys.exit(main())
