"""The section [delivery] of config.toml."""

from pydantic import BaseModel, ConfigDict, Field


class DeliveryConfig(BaseModel):
    """What is kept in the database."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    fsm: bool = Field(
        default=True,
        description="keep states and data of aiogram's FSM, unless the dispatcher has a storage",
    )
