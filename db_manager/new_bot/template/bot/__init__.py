"""A bot that keeps notes."""
