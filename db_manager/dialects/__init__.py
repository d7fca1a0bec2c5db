"""What is specific to each database and each driver."""
