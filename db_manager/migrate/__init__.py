"""Shows, writes and applies migrations: how the tables of each plugin change."""

from db_manager.migrate.run_verb import add_arguments as add_arguments
from db_manager.migrate.run_verb import run as run
