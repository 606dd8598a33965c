"""Run by Alembic to run the versions. The connection is ours, and so are its transaction and lock."""

from alembic import context

from stdio_broker.auth.migrate import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    on_version_apply=context.config.attributes["on_step"],
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
