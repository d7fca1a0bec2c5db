"""Runs SQLAlchemy's synchronous core, and carries the end of a unit through.

`port` is the interface of a runner. `plain` is the reference implementation, simple enough to check
by reading, with the shield that protects the end of a unit from cancellation; `fast` is the one
that units use by default; `choose` selects one of them.
"""
