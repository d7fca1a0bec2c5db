"""Recipes: one file each, to copy, for what stands beside a bot and its database."""
