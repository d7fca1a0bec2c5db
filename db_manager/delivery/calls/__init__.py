"""Calls of the Bot API: how a row keeps one, who makes it, and what the answer means."""
