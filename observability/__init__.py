"""Logs, metrics, spans and timelines of a bot; each observer is `attach(bus, …)` of its module."""
