"""Migrations: how the tables of each plugin change, and what the database is at."""
