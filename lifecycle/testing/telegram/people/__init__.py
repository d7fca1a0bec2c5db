"""The people who write to the bot: what they send, press and pay, and the chats they do it in."""
