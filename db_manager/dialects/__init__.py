"""What we know of each database and each driver by name."""
