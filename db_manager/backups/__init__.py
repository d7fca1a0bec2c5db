"""Backups: a consistent copy of the database in one file, while the bot writes."""
