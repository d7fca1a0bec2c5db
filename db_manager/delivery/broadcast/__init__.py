"""One message for many chats: written in one transaction, sent at a rate, counted to the last."""
