"""A plugin for the pytest of aiogram's own suite: every dispatcher belongs to an application."""

from functools import wraps
from typing import Any

import pytest
from aiogram import Dispatcher

from lifecycle import Application
from lifecycle.bot import attach


def pytest_configure() -> None:
    """Let `attach` follow every `Dispatcher()`."""
    make = Dispatcher.__init__

    @wraps(make)
    def make_attached(self: Dispatcher, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        attach(Application([]), self)

    pytest.MonkeyPatch().setattr(Dispatcher, "__init__", make_attached)
