"""What is in the database: messages, and the processes that send them."""
