"""What all units of one engine share."""
