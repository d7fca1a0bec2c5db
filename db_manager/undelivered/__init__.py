"""Shows which messages and updates wait or were given up; opens those again, or drops them."""

from db_manager.undelivered.run_delivery import add_arguments, run

__all__ = ["add_arguments", "run"]
