"""A bad night of a bot: what failed is real, and `db-manager trace` tells it afterwards."""
