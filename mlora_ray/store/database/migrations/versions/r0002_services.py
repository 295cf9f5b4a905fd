"""A lease for the service that writes; hosts, bases and numerics as facts of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("numerics", sa.String(64), nullable=False, server_default=""))
    _create_lease()
    _create_hosts()
    _create_bases_and_numerics()
    # Programs from before the migrations read this number, and refuse what is above 1.
    op.execute("UPDATE schema_version SET version = 2")


def _create_lease() -> None:
    op.create_table(
        "lease",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
    )
    op.execute("INSERT INTO lease (id, holder, generation, beat) VALUES (1, '', 0, 0)")


def _create_hosts() -> None:
    op.create_table(
        "hosts",
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("actor_name", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("node_id", sa.String(255), nullable=False),
        sa.Column("node_ip", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("numerics", sa.String(64), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("launched_at_s", sa.Double(), nullable=False),
        sa.Column("joined_at_s", sa.Double(), nullable=True),
        sa.Column("gone_at_s", sa.Double(), nullable=True),
        sa.UniqueConstraint("number"),
    )
    op.create_index("ix_hosts_state", "hosts", ["state"])


def _create_bases_and_numerics() -> None:
    op.create_table(
        "bases",
        sa.Column("base", sa.Text(), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
    )
    op.execute(
        "INSERT INTO bases (base, sha256, host, node) SELECT base, base_sha256, '', 'of an earlier run' FROM runs "
        "WHERE id IN (SELECT MIN(id) FROM runs WHERE base_sha256 <> '' GROUP BY base)"
    )
    op.create_table(
        "numerics",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(32), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
    )
    op.create_table(
        "numerics_facts",
        sa.Column("numerics", sa.String(64), sa.ForeignKey("numerics.id"), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
    )
