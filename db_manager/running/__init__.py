"""Runs SQLAlchemy's synchronous core, and carries the end of a unit through.

`port` is the interface of a runner. `plain` is the reference implementation, simple enough to check
by reading; `fast` is the one that units use by default; `choose` selects one of them. Both use
`shield`, which protects the end of a unit from cancellation, and `timers`, which are cheap for
deadlines that almost never fire.
"""
