"""The plugin `audit`: it knows no other plugin, and nothing it does can break a unit of work."""

from collections import Counter

from aiogram import Router
from aiogram.filters import Command
from aiogram.types import Message

from lifecycle import Event, Plugin, PluginContext, PluginEvent
from lifecycle.bot import include_router


class AuditPlugin(Plugin):
    """Counts how units of work end, follows the plugins, and tells with /stats."""

    name = "audit"

    units: Counter[str]
    plugins: dict[str, str]

    async def load(self, context: PluginContext) -> None:
        """Subscribe; the context cancels what it took when the plugin unloads."""
        self.units = Counter()
        self.plugins = {}
        context.subscribe("uow.*", self.count)
        context.subscribe("plugin.>", self.follow)
        router = Router(name="audit")
        router.message.register(self.stats, Command("stats"))
        await context.enter(include_router(context.services["aiogram:dispatcher"], router))

    def count(self, event: Event) -> None:
        """Count; would this raise, `subscriber.failed` would say so and the unit not notice."""
        self.units[event.topic] += 1

    def follow(self, event: PluginEvent) -> None:
        """Remember the last thing that happened to each plugin."""
        self.plugins[event.plugin] = event.topic.removeprefix("plugin.")

    async def stats(self, message: Message) -> None:
        """/stats."""
        lines = [
            f"{self.units['uow.commit']} units committed, {self.units['uow.rollback']} rolled back",
            *(f"{name} {state}" for name, state in self.plugins.items()),
        ]
        await message.answer("\n".join(lines))
