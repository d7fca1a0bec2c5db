"""Updates that are stored before Telegram hears that they arrived, and handled after that."""
