"""SQLite, with the driver aiosqlite."""
