"""What happened in a run, read back: its hooks, its units of work, and how it ended."""
