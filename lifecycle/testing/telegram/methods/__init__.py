"""What a bot can call: the methods of the Bot API; no HTTP here."""
