"""Programs that measure; nothing in the project claims a number that they do not print."""
