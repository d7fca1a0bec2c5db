"""Drift: how the tables of a database differ from the models, by SQLAlchemy's inspection."""
