"""From the section [database] to an engine and its pool."""
