"""The command `db-manager check`."""
