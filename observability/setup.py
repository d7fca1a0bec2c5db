"""Attaches the observers that the section [observability] of config.toml switches on."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lifecycle.application import Application
from lifecycle.errors import ConfigError
from observability import logs
from observability.config import ObservabilityConfig
from observability.story.unit_log import units_path
from observability.story.unit_writer import record_units

if TYPE_CHECKING:
    from observability.http.server import Endpoint
    from observability.metrics import Metrics

_log = logging.getLogger("observability")


class _Observe:
    """Attaches to an application what its section [observability] switches on."""

    config_model = ObservabilityConfig

    def __call__(
        self, app: Application, config: ObservabilityConfig
    ) -> Callable[[], Awaitable[None] | None]:
        """Attach the observers.

        Args:
            app: The application.
            config: The section [observability].

        Returns:
            A function that detaches them.

        Raises:
            ConfigError: The address of the endpoint cannot be used.
        """
        return _attached(app, config)


#: The observer `observability`, an entry point of the group `db_manager.observers`.
observe: Final = _Observe()


def _attached(
    app: Application, config: ObservabilityConfig
) -> Callable[[], Awaitable[None] | None]:
    with ExitStack() as stack:
        stack.enter_context(
            logs.attach(
                app.bus,
                level=config.level,
                format=None if config.format == "auto" else config.format,
                slow_unit=config.slow_unit,
                sample=config.sample,
                stdlib=config.stdlib,
            )
        )
        if config.units:
            _record(app, stack)
        metrics = _measure(app, stack) if config.metrics else None
        if config.traces:
            _trace(app, stack)
        endpoint = _answer(app, stack, config.endpoint, metrics) if config.endpoint else None
        attached = stack.pop_all()
    return attached.close if endpoint is None else partial(_detach, attached, endpoint)


async def _detach(attached: ExitStack, endpoint: "Endpoint") -> None:
    with attached:
        await endpoint.stop()


def _record(app: Application, stack: ExitStack) -> None:
    path = getattr(
        app.journal, "path", None
    )  # a journal in memory has none, and no tool could read its units
    if path is None:
        return
    try:
        stack.callback(record_units(app.bus, units_path(Path(path))))
    except OSError as error:  # a warning: the bot must start without its record, too
        _log.warning(
            "[observability] units: %s; units are not recorded; fix this, or set units = false",
            error,
        )


def _measure(app: Application, stack: ExitStack) -> "Metrics":
    from observability import metrics  # noqa: PLC0415 -- only when switched on

    measured = stack.enter_context(metrics.attach(app.bus, probes=app.probes))
    _provide(app, stack, "metrics", measured)  # for the bot's own HTTP server
    return measured


def _trace(app: Application, stack: ExitStack) -> None:
    from observability import spans  # noqa: PLC0415 -- only when switched on

    stack.enter_context(spans.attach(app.bus))


def _answer(
    app: Application, stack: ExitStack, address: str, metrics: "Metrics | None"
) -> "Endpoint":
    from observability.http.server import Endpoint  # noqa: PLC0415 -- aiohttp: only when switched on

    try:
        endpoint = Endpoint(app, address, metrics)
    except OSError as error:
        raise ConfigError(f"[observability] endpoint: {error}") from None
    _provide(app, stack, "endpoint", endpoint)  # tells the port when the configuration says 0
    endpoint.start()
    return endpoint


def _provide(app: Application, stack: ExitStack, name: str, value: object) -> None:
    service = f"observability:{name}"
    app.services.provide(service, value)
    stack.callback(app.services.withdraw, service)
