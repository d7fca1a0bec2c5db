"""Parts of a unit that can be undone without the rest: savepoints, and code that commits itself."""
