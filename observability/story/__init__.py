"""What happened in a run, read from its records: hooks, units of work, and how it ended."""
