"""Switches the observers on that the section [observability] of config.toml asks for."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lifecycle.application import Application
from lifecycle.errors import ConfigError
from lifecycle.wiring import nearest
from observability import logs

if TYPE_CHECKING:
    from observability.endpoint import Endpoint
    from observability.metrics import Metrics


class ObservabilityConfig(BaseModel):
    """The section [observability]. Times are in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the lowest level that is shown"
    )
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto is console on a terminal and json elsewhere"
    )
    slow_unit: float = Field(1.0, gt=0, description="age from which a unit's line is a warning")
    sample: float = Field(1.0, ge=0, le=1, description="share of units with ordinary lines shown")
    stdlib: bool = Field(default=True, description="logs of aiogram, SQLAlchemy, yours: same form")
    metrics: bool = Field(default=False, description="count for Prometheus (extra `metrics`)")
    traces: bool = Field(default=False, description="OpenTelemetry spans (extra `otel`)")
    endpoint: str = Field(
        "", description="address of /healthz, /readyz and /metrics, as 127.0.0.1:9100"
    )


def observe(app: Application, section: dict[str, Any]) -> Callable[[], Awaitable[None] | None]:
    """Attach what *section* asks for to the bus of *app*.

    Args:
        app: The application.
        section: The section [observability].

    Returns:
        What detaches it again.

    Raises:
        ConfigError: A key is unknown or has a wrong value; the text names each.
    """
    try:
        config = ObservabilityConfig.model_validate(section)
    except ValidationError as error:
        raise ConfigError("\n".join(_problems(error))) from None
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
        metrics = _measure(app, stack) if config.metrics else None
        if config.traces:
            _trace(app, stack)
        endpoint = _answer(app, stack, config.endpoint, metrics) if config.endpoint else None
        attached = stack.pop_all()
    return attached.close if endpoint is None else partial(_detach, attached, endpoint)


async def _detach(attached: ExitStack, endpoint: "Endpoint") -> None:
    with attached:
        await endpoint.stop()


def _measure(app: Application, stack: ExitStack) -> "Metrics":
    from observability import metrics  # noqa: PLC0415 -- only when it is asked for

    try:
        measured = stack.enter_context(metrics.attach(app.bus, probes=app.probes))
    except ImportError as error:
        raise ConfigError(f"[observability] metrics: {error}") from error
    _provide(app, stack, "metrics", measured)  # for an HTTP server of one's own
    return measured


def _trace(app: Application, stack: ExitStack) -> None:
    from observability import traces  # noqa: PLC0415 -- only when it is asked for

    try:
        stack.enter_context(traces.attach(app.bus))
    except ImportError as error:
        raise ConfigError(f"[observability] traces: {error}") from error


def _answer(
    app: Application, stack: ExitStack, address: str, metrics: "Metrics | None"
) -> "Endpoint":
    from observability.endpoint import Endpoint  # noqa: PLC0415 -- aiohttp: only when asked for

    try:
        endpoint = Endpoint(app, address, metrics)
    except (ValueError, OSError) as error:
        raise ConfigError(f"[observability] endpoint: {error}") from None
    _provide(app, stack, "endpoint", endpoint)  # for who asked for port 0
    endpoint.start()
    return endpoint


def _provide(app: Application, stack: ExitStack, name: str, value: object) -> None:
    service = f"observability:{name}"
    app.services.provide(service, value)
    stack.callback(app.services.withdraw, service)


def _problems(error: ValidationError) -> Iterator[str]:
    # The wrong values themselves are left out: nobody knows what was pasted there.
    known = ObservabilityConfig.model_fields
    for each in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in each["loc"])
        if each["type"] == "extra_forbidden":
            yield (
                f"[observability] {key}: unknown key{nearest(key, known)}; "
                f"there are: {', '.join(known)}"
            )
        else:
            meaning = known[str(each["loc"][0])].description
            yield f"[observability] {key}: {each['msg']} ({meaning})"
