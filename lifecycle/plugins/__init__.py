"""Plugins: what they are, take and offer, and how they move through their lives.

Outside of this package only these are imported: `plugin.Plugin`, `context.PluginContext`, the
states and their table from `machine`, `replay.replay`, and `wiring.in_order`. The application is
made of the rest.
"""
