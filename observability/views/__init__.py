"""Runs and plugins as text and pictures; nothing here reads or writes a file."""
