"""What a plugin is: names, limits, and hooks that are all optional."""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from lifecycle.plugins.context import PluginContext


class Plugin:
    """A part of the application with a life of its own; every hook is optional.

    Attributes:
        name: Unique name; the default name of its section in config.toml.
        requires: Names of the plugins that are loaded and started before it.
        config_model: Its section is checked by `config_model.model_validate(section)`. If what
            that makes has a method `relative_to(folder)`, its result is taken: the same
            configuration with paths relative to the folder of config.toml.
        config_section: Name of the section when it is not the plugin's name.
        load_timeout: Seconds for the load hook.
        start_timeout: Seconds for the start hook.
        stop_timeout: Seconds for the stop hook and giving back what start took; None is an equal
            share of what the grace time leaves.
        unload_timeout: The same, for the unload hook.
    """

    name: str = ""
    requires: tuple[str, ...] = ()
    config_model: ClassVar[Any] = None
    config_section: str | None = None
    load_timeout: float = 30.0
    start_timeout: float = 30.0
    stop_timeout: float | None = None
    unload_timeout: float | None = None

    async def load(self, context: PluginContext) -> None:
        """Take what is needed to be there; provide services.

        Args:
            context: Given back after `unload`.
        """

    async def start(self, context: PluginContext) -> None:
        """Begin to work.

        Args:
            context: Given back after `stop`.
        """

    async def stop(self, context: PluginContext) -> None:
        """End the work; called only when `start` succeeded.

        Args:
            context: The one that `start` got.
        """

    async def unload(self, context: PluginContext) -> None:
        """Let go of what `load` took by hand; called only when `load` succeeded.

        Args:
            context: The one that `load` got.
        """

    async def health(self, context: PluginContext) -> Mapping[str, Any] | None:  # noqa: ARG002 -- for subclasses
        """Check that the started plugin works; raise when it does not.

        Args:
            context: The one that `start` got.

        Returns:
            Details for people, or nothing.
        """
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin says about itself.

    Args:
        healthy: It is started, not degraded, and its check passed.
        error: Why not, in one line.
        details: What the check returned.
        duration: Seconds the check took.
    """

    healthy: bool
    error: str = ""
    details: Mapping[str, Any] = {}
    duration: float = 0.0
