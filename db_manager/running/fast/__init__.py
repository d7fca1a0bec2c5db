"""The fast runner; skip it, `plain` does the same.

`runner` is the whole of it, on greenlets that are kept (`greenlets`) and on a wait for COMMIT that
needs no task (`in_place`).
"""
