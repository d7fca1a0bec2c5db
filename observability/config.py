"""The section [observability] of config.toml: its keys and their limits."""

from importlib import import_module
from typing import Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lifecycle.config import Kind, environment
from lifecycle.errors import ConfigError
from observability.http.address import parse_address

#: The module that a key needs, and the extra that installs it.
_EXTRAS: Final = {
    "metrics": ("prometheus_client", "metrics"),
    "traces": ("opentelemetry.trace", "otel"),
}


class ObservabilityConfig(BaseModel):
    """The section [observability]. Times are in seconds.

    The environment variable `OBSERVABILITY__LEVEL` overrides `level` of the file, as of two
    processes that share it: each needs an `endpoint` of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the lowest level that is shown"
    )
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto is console on a terminal and json elsewhere"
    )
    slow_unit: float = Field(
        1.0, ge=0.001, le=86_400, description="seconds from which a unit's log line is a warning"
    )
    sample: float = Field(
        1.0, ge=0, le=1, description="share of units whose ordinary log lines are shown"
    )
    stdlib: bool = Field(
        default=True,
        description="show the logs of aiogram, SQLAlchemy and your code in the same format",
    )
    units: bool = Field(
        default=True,
        description="record how units, migrations, messages and updates ended, for "
        "`db-manager trace`",
    )
    metrics: bool = Field(default=False, description="Prometheus metrics (extra `metrics`)")
    traces: bool = Field(default=False, description="OpenTelemetry spans (extra `otel`)")
    endpoint: str = Field(
        "", description="address of /healthz, /readyz and /metrics, for example 127.0.0.1:9100"
    )

    @model_validator(mode="before")
    @classmethod
    def _override(cls, section: Any) -> Any:
        kinds: dict[Any, Kind] = {bool: "truth", float: "number"}
        keys = {key: kinds.get(field.annotation, "text") for key, field in cls.model_fields.items()}
        return {**section, **environment("observability", keys)}

    @field_validator("metrics", "traces")
    @classmethod
    def _check_extra(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 -- pydantic's
        module, extra = _EXTRAS[str(info.field_name)]
        if value:
            try:
                import_module(module)
            except ImportError as error:
                raise ConfigError(
                    f"[observability] {info.field_name}: {error}; install db-manager[{extra}]"
                ) from None
        return value

    @field_validator("endpoint")
    @classmethod
    def _check_address(cls, value: str) -> str:
        if value:
            try:
                parse_address(value)
            except ValueError as error:
                raise ConfigError(f"[observability] endpoint: {error}") from None
        return value
