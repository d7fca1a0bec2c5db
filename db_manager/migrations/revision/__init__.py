"""Writes the next revision of a plugin: what its models have and its migrations have not."""
