"""Ray's own instruments for the metrics of the placement service."""

from __future__ import annotations

from typing import Any

from mlora_ray.control.metric_table import MetricSpec, Write


def ray_instrument(spec: MetricSpec, service: str) -> Write:
    """Ray's own object behind one metric, as a function of value and tags."""
    from ray.util import metrics

    keys = ("service", *spec.tags)
    made: Any
    if spec.kind == "counter":
        made = metrics.Counter(spec.name, description=spec.description, tag_keys=keys)
        write = made.inc
    elif spec.kind == "gauge":
        made = metrics.Gauge(spec.name, description=spec.description, tag_keys=keys)
        write = made.set
    else:
        made = metrics.Histogram(spec.name, description=spec.description, boundaries=list(spec.buckets), tag_keys=keys)
        write = made.observe
    made.set_default_tags({"service": service})
    recorded: Write = write
    return recorded
