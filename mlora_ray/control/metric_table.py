"""Every metric by name, kind, labels and help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


SLOW = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric. Every one has the tag `service` besides its `tags`; only histograms have `buckets`, in seconds."""

    name: str  # mlora_<noun>_<unit>
    kind: str  # counter | gauge | histogram
    description: str
    tags: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> tuple[str, ...]:
        """The names under which Prometheus finds it."""
        suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[self.kind]
        return tuple(f"ray_{self.name}{suffix}" for suffix in suffixes)


def _counter(name: str, description: str, *tags: str) -> MetricSpec:
    return MetricSpec(name=name, kind="counter", description=description, tags=tags)


def _gauge(name: str, description: str, *tags: str) -> MetricSpec:
    return MetricSpec(name=name, kind="gauge", description=description, tags=tags)


def _histogram(name: str, description: str, buckets: tuple[float, ...], *tags: str) -> MetricSpec:
    return MetricSpec(name=name, kind="histogram", description=description, tags=tags, buckets=buckets)


METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        _counter("mlora_trained_tokens", "Tokens trained, each step counted once however often replayed", "tenant"),
        _counter("mlora_optimizer_steps", "Optimizer steps, each counted once however often replayed", "tenant"),
        _counter("mlora_finished_jobs", "Jobs that became final, by their final state", "state", "tenant"),
        _counter("mlora_lost_steps", "Steps trained again: they were not saved when their host was lost", "cause"),
        _counter("mlora_job_migrations", "Adapters that changed hosts", "reason"),
        _counter("mlora_bundle_commits", "Bundles that hosts reported: committed, stale or gap", "outcome"),
        _counter("mlora_storage_failures", "Reads and writes of the storage that failed", "operation"),
        _counter("mlora_host_launches", "Hosts that were started", "host_type"),
        _counter("mlora_host_losses", "Hosts that were lost or given up", "cause", "host_type"),
        _counter("mlora_spent_currency", "Cost so far of all hosts, from the prices in the settings"),
        _gauge("mlora_throughput_tokens_per_second", "Tokens trained each second, all hosts together"),
        _gauge("mlora_current_jobs", "Jobs by state", "state"),
        _gauge("mlora_queued_jobs", "Jobs that wait for a host", "tenant"),
        _gauge("mlora_queued_tokens", "Tokens of the jobs that wait for a host"),
        _gauge("mlora_remaining_tokens", "Tokens still to be trained, of all jobs"),
        _gauge("mlora_current_hosts", "Hosts that are not gone", "state", "host_type", "base"),
        _gauge("mlora_wanted_hosts", "Hosts that autoscaling wants"),
        _gauge("mlora_draining_nodes", "Nodes that Ray says will leave"),
        _gauge("mlora_host_memory_bytes", "Memory a host uses", "host", "host_type"),
        _gauge("mlora_host_memory_limit_bytes", "Memory a host may use", "host", "host_type"),
        _gauge("mlora_host_throughput_tokens_per_second", "Tokens a host trains each second", "host", "host_type"),
        _gauge("mlora_host_row_tokens", "Tokens that a packed row of a host holds at most", "host", "host_type"),
        _gauge("mlora_host_drift_ratio", "Actual over predicted seconds of a host's rows", "host", "host_type"),
        _gauge("mlora_cost_currency_per_hour", "What the present hosts cost, from the prices in the settings"),
        _gauge("mlora_clock_skew_seconds", "The furthest that a node's clock is from placement's"),
        _gauge("mlora_job_progress_ratio", "Steps of a job's steps, 0 to 1", "job", "tenant"),
        _gauge("mlora_job_loss_nats", "Loss of a job's last step", "job", "tenant"),
        _gauge("mlora_job_throughput_tokens_per_second", "Tokens of a job trained each second", "job", "tenant"),
        _histogram("mlora_migration_pause_seconds", "How long an adapter stood still to change hosts", SLOW, "reason"),
        _histogram("mlora_recovery_seconds", "From the loss of a host to its adapter's next new step", SLOW, "cause"),
        _histogram("mlora_tick_seconds", "One tick of placement", QUICK),
        _histogram("mlora_decision_seconds", "One decision of the policies", QUICK),
    )
}


Write = Callable[[float, dict[str, str]], None]
