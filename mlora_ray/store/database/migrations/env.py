"""What Alembic runs: migrations over the connection, and inside the transaction, of `schema.bring_up_to_date`."""

from __future__ import annotations

from alembic import context

from mlora_ray.store.database.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
context.run_migrations()
