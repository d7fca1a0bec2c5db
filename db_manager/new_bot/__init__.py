"""The command `db-manager init`: a new bot, in files to go on from."""
