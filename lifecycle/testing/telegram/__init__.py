"""Telegram for tests: the Bot API over HTTP, and the people who write to the bot."""
