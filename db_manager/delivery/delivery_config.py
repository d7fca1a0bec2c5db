"""The section [delivery] of config.toml."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from lifecycle.config import Kind, environment


class DeliveryConfig(BaseModel):
    """What is kept in the database. Times are in seconds.

    The environment variable `DELIVERY__BROKER` overrides `broker` of the file, and so for all keys.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    fsm: bool = Field(
        default=True,
        description="keep states and data of aiogram's FSM, unless the dispatcher has a storage",
    )
    outbox: bool = Field(default=True, description="send messages of `uow.send`")
    inbox: bool = Field(
        default=False,
        description="store updates before Telegram hears that they arrived; needs the outbox",
    )
    lease: float = Field(
        default=6.0,
        ge=0.5,
        le=600,
        description="seconds without a sign of life after which others take over (PostgreSQL)",
    )
    poll: float = Field(
        default=1.0, ge=0.05, le=60, description="seconds between two looks at the table"
    )
    attempts: int = Field(
        default=3, ge=1, le=100, description="attempts when an error is not a passing one"
    )
    retry_for: float = Field(
        default=86_400,
        ge=0,
        le=2_592_000,
        description="seconds for which a message is tried while Telegram is away",
    )
    deaths: int = Field(
        default=4,
        ge=3,
        le=100,
        description="deaths of its process, after which an update is parked",
    )
    concurrency: int = Field(
        default=100, ge=1, le=10_000, description="updates that a process handles at once"
    )
    order: Literal["chat", "user", "none"] = Field(
        default="chat", description="whose updates are handled one after the other"
    )
    keep: float = Field(
        default=172_800,
        ge=86_400,
        le=31_536_000,
        description="seconds for which a handled update is remembered, to know it again",
    )
    keep_sent: float = Field(
        default=86_400,
        ge=0,
        le=31_536_000,
        description="seconds for which ids of a sent message are kept",
    )
    window: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="messages of a bot that are on their way or not marked: a death repeats them",
    )
    bulk_rate: float = Field(
        default=25.0,
        ge=0.1,
        le=1000,
        description="messages of broadcasts in a second, for each bot",
    )
    max_file: int = Field(
        default=1_048_576,
        ge=0,
        le=52_428_800,
        description="bytes that a file of a message has at most",
    )
    broker: SecretStr | None = Field(
        default=None,
        description="where events of `uow.publish` go: `nats://`, `redis://`, `amqp://`, `kafka://`",
    )
    direct_calls: Literal["allow", "warn", "refuse"] = Field(
        default="warn",
        description="`allow`, `warn` or `refuse`: a call that is awaited before its unit commits",
    )

    @model_validator(mode="before")
    @classmethod
    def _override(cls, section: Any) -> Any:
        kinds: dict[Any, Kind] = {bool: "truth", float: "number", int: "number"}
        keys = {key: kinds.get(field.annotation, "text") for key, field in cls.model_fields.items()}
        return {**section, **environment("delivery", keys)}

    @property
    def soonest(self) -> float:
        """Seconds from one look to the next: those of uvloop's timers may be a little short."""
        return 0.9 * self.poll

    @model_validator(mode="after")
    def _inbox_needs_outbox(self) -> Self:
        if self.inbox and not self.outbox:
            raise ValueError("inbox = true needs outbox = true: what a handler returns is sent")
        return self
