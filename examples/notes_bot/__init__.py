"""A small bot: a plugin with a table and commands, and a plugin that only watches."""
