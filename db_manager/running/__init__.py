"""How SQLAlchemy's synchronous core runs, and how the end of a unit is waited for.

`port` says what a runner is, `plain` is one that is checked by reading, `fast` is the one that
units have, and `choose` picks. Beside them: `shield`, which outlasts a cancellation, and `timers`,
for deadlines that almost never fire.
"""
