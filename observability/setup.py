"""Switches the observers on that the section [observability] of config.toml asks for."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lifecycle.application import Application
from lifecycle.errors import ConfigError
from observability import logs


class ObservabilityConfig(BaseModel):
    """The section [observability]. Times are in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the lowest level that is shown"
    )
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto is console on a terminal and json elsewhere"
    )
    slow_unit: float = Field(1.0, gt=0, description="age from which a unit's line is a warning")
    sample: float = Field(1.0, ge=0, le=1, description="share of ordinary unit lines shown")
    stdlib: bool = Field(default=True, description="aiogram's and SQLAlchemy's logs, same form")


def observe(app: Application, section: dict[str, Any]) -> Callable[[], None]:
    """Attach what *section* asks for to the bus of *app*.

    Args:
        app: The application.
        section: The section [observability].

    Returns:
        What detaches it again.

    Raises:
        ConfigError: A key is unknown or has a wrong value.
    """
    try:
        config = ObservabilityConfig.model_validate(section)
    except ValidationError as error:
        known = ", ".join(ObservabilityConfig.model_fields)
        problems = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}"
            for each in error.errors()
        )
        raise ConfigError(f"[observability] {problems}; its keys are: {known}") from None
    lines = logs.attach(
        app.bus,
        level=config.level,
        format=None if config.format == "auto" else config.format,
        slow_unit=config.slow_unit,
        sample=config.sample,
        stdlib=config.stdlib,
    )
    return lines.close
