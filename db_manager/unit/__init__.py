"""The unit of work: one transaction, and how it really ended."""
