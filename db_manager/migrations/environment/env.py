"""Alembic's environment for the history of one plugin; everything comes by `Config.attributes`."""

from alembic import context

given = context.config.attributes
context.configure(**given["options"])
with context.begin_transaction():
    if given["admit"](context.get_context()):
        context.run_migrations()
    given["finish"](context.get_context())
