"""Tables of the control database. Facts about jobs only; tensors never go into it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Double, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """Base of all tables."""


class SchemaRow(Table):
    """One row: the version as programs from before the migrations read it, so that they refuse this database."""

    __tablename__ = "schema_version"
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)


class LeaseRow(Table):
    """One row: the service that may write. `generation` fences, a moving `beat` says that it is at work."""

    __tablename__ = "lease"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    holder: Mapped[str] = mapped_column(Text)
    generation: Mapped[int] = mapped_column(Integer)
    beat: Mapped[int] = mapped_column(BigInteger)


class HostRow(Table):
    """One host actor, kept for ever so that no id is used twice. `settings` is a HostSettings as JSON."""

    __tablename__ = "hosts"
    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, unique=True)
    settings: Mapped[str] = mapped_column(Text)
    actor_name: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(16), index=True)
    node_id: Mapped[str] = mapped_column(String(255), default="")
    node_ip: Mapped[str] = mapped_column(String(255), default="")
    pid: Mapped[int] = mapped_column(Integer, default=0)
    numerics: Mapped[str] = mapped_column(String(64), default="")
    why: Mapped[str] = mapped_column(Text, default="")
    launched_at_s: Mapped[float] = mapped_column(Double)
    joined_at_s: Mapped[float | None] = mapped_column(Double, nullable=True)
    gone_at_s: Mapped[float | None] = mapped_column(Double, nullable=True)


class BaseRow(Table):
    """The weights of a base, as the first host that loaded it has them."""

    __tablename__ = "bases"
    base: Mapped[str] = mapped_column(Text, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    host: Mapped[str] = mapped_column(String(255))
    node: Mapped[str] = mapped_column(String(255))


class NumericsRow(Table):
    """One way to compute: hosts of equal numerics compute equal bits. `place` orders by first use."""

    __tablename__ = "numerics"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    place: Mapped[int] = mapped_column(Integer)
    device: Mapped[str] = mapped_column(String(32))
    threads: Mapped[int] = mapped_column(Integer)


class NumericsFactRow(Table):
    """What decides the bits beside device and threads: versions, the CPU's capability, the kernels."""

    __tablename__ = "numerics_facts"
    numerics: Mapped[str] = mapped_column(ForeignKey("numerics.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    place: Mapped[int] = mapped_column(Integer)
    value: Mapped[str] = mapped_column(Text)


class RunRow(Table):
    """One call of `train`, a resumed one too."""

    __tablename__ = "runs"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    command: Mapped[str] = mapped_column(Text)
    base: Mapped[str] = mapped_column(String(255))
    base_sha256: Mapped[str] = mapped_column(String(64), default="")
    device: Mapped[str] = mapped_column(String(32))
    threads: Mapped[int] = mapped_column(Integer)
    started_at_s: Mapped[float] = mapped_column(Double)


class RunFactRow(Table):
    """What decides the bits of a run beside its device and threads: versions, the CPU's capability, the kernels."""

    __tablename__ = "run_facts"
    run: Mapped[int] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    place: Mapped[int] = mapped_column(Integer)
    value: Mapped[str] = mapped_column(String(255))


class JobRow(Table):
    """One job. `epoch` is the fencing number: whoever writes must name the one that is here."""

    __tablename__ = "jobs"
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    place_in_file: Mapped[int] = mapped_column(Integer)
    spec: Mapped[str] = mapped_column(Text)
    spec_sha256: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), index=True)
    epoch: Mapped[int] = mapped_column(Integer, default=0)
    host: Mapped[str] = mapped_column(String(255), default="")
    step: Mapped[int] = mapped_column(Integer, default=0)
    bundle_uri: Mapped[str] = mapped_column(Text, default="")
    weights_sha256: Mapped[str] = mapped_column(String(64), default="")
    error: Mapped[str] = mapped_column(Text, default="")
    num_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    submitted_at_s: Mapped[float] = mapped_column(Double)
    numerics: Mapped[str] = mapped_column(String(64), default="", server_default="")


class StepRow(Table):
    """One committed optimizer step. The key makes a second commit of a step impossible."""

    __tablename__ = "steps"
    job: Mapped[str] = mapped_column(ForeignKey("jobs.name"), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(Integer)
    data_epoch: Mapped[float] = mapped_column(Double)
    loss: Mapped[float] = mapped_column(Double)
    learning_rate: Mapped[float] = mapped_column(Double)
    grad_norm: Mapped[float] = mapped_column(Double)
    num_tokens: Mapped[int] = mapped_column(Integer)
    num_target_tokens: Mapped[int] = mapped_column(Integer)
    seconds: Mapped[float] = mapped_column(Double)
    eval_loss: Mapped[float | None] = mapped_column(Double, nullable=True)


class BundleRow(Table):
    """One committed bundle. `is_kept` turns false when its file is removed."""

    __tablename__ = "bundles"
    job: Mapped[str] = mapped_column(ForeignKey("jobs.name"), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    uri: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    is_final: Mapped[bool] = mapped_column(Boolean, default=False)
    is_kept: Mapped[bool] = mapped_column(Boolean, default=True)


class EventRow(Table):
    """What happened, one line an event; the whole log as JSONL is `ControlDatabase.events()`."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    at_s: Mapped[float] = mapped_column(Double)
    kind: Mapped[str] = mapped_column(String(32))
    job: Mapped[str] = mapped_column(String(255), default="")
    host: Mapped[str] = mapped_column(String(255), default="")
    epoch: Mapped[int] = mapped_column(Integer, default=0)
    detail: Mapped[str] = mapped_column(Text, default="")
    __table_args__ = (Index("events_by_job", "job", "id"),)
