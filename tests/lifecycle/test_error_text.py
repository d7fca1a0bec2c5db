"""What is told of an error: its class, facts and place, never the text that others wrote."""

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lifecycle.error_text import LONGEST, add_reader, tell, tell_text, textless
from lifecycle.errors import ConfigError, HookTimeoutError, LifecycleError, PluginFailedError

CANARY = "c4n4ry"


class OwnError(HookTimeoutError):
    """An error of somebody's below one of ours, with a text of its own."""

    def __str__(self) -> str:
        return CANARY


class BentError(Exception):
    """An error whose fields cannot be read."""

    @property
    def errno(self) -> int:
        """Fail."""
        raise ValueError(CANARY)


def raised(error: BaseException) -> BaseException:
    """Return *error* after it was raised."""
    with pytest.raises(type(error)) as info:
        raise error
    return info.value


def module(path: Path, code: str) -> ModuleType:
    """Import *code* as the module of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def caught(call: Any, *args: Any) -> BaseException:
    """Return what a call raises."""
    with pytest.raises(BaseException) as info:  # noqa: PT011 -- any
        call(*args)
    return info.value


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError(CANARY), "ValueError"),
        (KeyError(CANARY), "KeyError"),
        (asyncio.CancelledError(CANARY), "CancelledError"),
        (OSError(2, "No such file", CANARY), "FileNotFoundError: ENOENT"),
        (OSError(CANARY), "OSError"),
        (ExceptionGroup(CANARY, [KeyError(CANARY)] * 5), "ExceptionGroup: 5 errors: KeyError; "),
        (ConfigError(CANARY), "ConfigError"),
        (OwnError(1.0, abandoned=False), "OwnError"),
        (BentError(CANARY), "BentError"),
        (HookTimeoutError(2.0, abandoned=True), "HookTimeoutError: did not end within 2 s and "),
        (
            PluginFailedError("p", "stop", ValueError(CANARY)),
            "PluginFailedError: plugin 'p' failed in stop: ValueError",
        ),
    ],
)
def test_the_text_is_not_told(error: BaseException, told: str) -> None:
    """Of a foreign error its class is told, of ours the text that its class composes."""
    for each in (error, raised(error)):
        assert tell(each).startswith(told)
        assert CANARY not in tell(each)
    assert isinstance(error, LifecycleError) or f"raised in {__name__}:" in tell(error)


def test_the_place_is_the_bots(tmp_path: Path) -> None:
    """The innermost frame that is in no library is named, or the bot's when it is installed."""
    library = module(tmp_path / "site-packages" / "lib.py", "def fail():\n    raise ValueError\n")
    bot = module(tmp_path / "bot.py", "def work(call):\n    call()\n")
    installed = module(tmp_path / "site-packages" / "plug.py", "def work(call):\n\n    call()\n")
    assert tell(caught(bot.work, library.fail)).endswith("raised in bot:2")
    assert tell(_cut(caught(installed.work, library.fail))).endswith("raised in plug:3")
    assert tell(_cut(caught(library.fail))).endswith("raised in lib:2")


def _cut(error: BaseException) -> BaseException:
    """Take the frames of this file off the traceback: all of the rest is installed."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals["__name__"] == __name__:
        traceback = traceback.tb_next
    return error.with_traceback(traceback)


def test_a_hooks_text_is_told_unless_somebody_knows_better() -> None:
    """`tell_text` shows the text in one line; of an error with a reader only what that says."""
    assert tell_text(ValueError("no\n printer")) == "ValueError: no printer"
    assert tell_text(FileNotFoundError(2, "No such file", "rates.csv")).endswith("'rates.csv'")
    assert len(tell_text(ValueError("x" * 5000))) == LONGEST
    assert tell_text(FileNotFoundError("no file \udcff")) == r"FileNotFoundError: no file \udcff"
    assert tell_text(KeyError()) == "KeyError"
    kind = type("KnownError", (Exception,), {"__module__": "told_package.errors"})
    add_reader(["told_package"], lambda _: ("KnownError", ["fact"]))
    below = type("BelowError", (kind,), {})
    assert tell_text(kind(CANARY)) == tell_text(below(CANARY)) == "KnownError: fact"


@pytest.mark.parametrize("before", [0, LONGEST - 90])
def test_the_token_of_a_bot_is_told_nowhere(before: int) -> None:
    """A text that names an address of the Bot API has no token, also where it is cut."""
    secret = "AA" + "x" * 33
    text = f"{'-' * before} no answer of https://api.telegram.org/bot123456789:{secret}/getMe"
    told = tell_text(ValueError(text))
    assert "bot123456789:***" in told
    assert "xxx" not in told


def test_a_stand_in_has_everything_but_the_text() -> None:
    """What is logged has name, module, traceback and causes of the error; no text and no notes."""
    error = raised(ValueError(CANARY))
    error.__cause__ = raised(KeyError(CANARY))
    error.__context__ = error  # a circle
    error.add_note(CANARY)
    shown = textless(error)
    assert (type(shown).__name__, type(shown).__module__) == ("ValueError", "builtins")
    assert shown.__traceback__ is error.__traceback__
    assert str(shown).startswith("raised in ")
    assert (type(shown.__cause__).__name__, shown.__context__) == ("KeyError", shown)
    assert not hasattr(shown, "__notes__")


def test_an_endless_chain_of_causes_is_cut() -> None:
    """An error with thousands of errors before it is logged with the last twenty of them."""
    error: BaseException = ValueError(CANARY)
    for _ in range(5000):
        later = ValueError(CANARY)
        later.__context__ = later.__cause__ = error
        error = later
    shown: BaseException | None = textless(error)
    length = 0
    while shown is not None:
        shown = shown.__context__
        length += 1
    assert length == 21
