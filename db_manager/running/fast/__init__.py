"""The fast runner. It behaves as `plain` does, so a first reading can skip it.

`runner` combines reused greenlets (`greenlets`) with a wait for COMMIT that needs no extra task
(`in_place`). `timers` are cheap for deadlines that almost never fire.
"""
