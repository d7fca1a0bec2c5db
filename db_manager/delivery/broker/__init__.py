"""Events of committed units for other programs: brought to a broker as messages are to Telegram."""
