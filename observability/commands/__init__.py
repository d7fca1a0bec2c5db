"""The command `db-manager` and its subcommands: arguments in, text out, and an exit code."""
