"""One transaction, and the truth about its end."""
