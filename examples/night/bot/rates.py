"""The plugin `rates`: reads the exchange rates of the day from a file at start."""

import asyncio
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lifecycle import Plugin, PluginContext


class RatesConfig(BaseModel):
    """The section [rates] of config.toml."""

    model_config = ConfigDict(extra="forbid")

    file: str


class RatesPlugin(Plugin):
    """Knows what a euro costs."""

    name = "rates"
    config_model = RatesConfig

    async def start(self, context: PluginContext) -> None:
        """Read the file; without it there is nothing to tell anybody."""
        text = await asyncio.to_thread(Path(context.config.file).read_text, "utf-8")
        rates = dict(line.split(",") for line in text.splitlines())
        context.provide("all", rates)
