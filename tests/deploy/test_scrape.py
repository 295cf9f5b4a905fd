"""What a real Ray exports of our metrics, and what a real Prometheus makes of the dashboard on it."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from typing import Any

import pytest

from mlora_ray.control.metric_table import METRICS

LINE = re.compile(r"^(ray_mlora_\w+)\{(.*)\} (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
RAYS_OWN = {"NodeAddress", "SessionName", "Version", "WorkerId", "Component"}
Series = list[tuple[dict[str, str], float]]


@pytest.fixture(scope="module")
def scraped(head: dict[str, Any]) -> dict[str, Series]:
    """Exported name to its series: labels and value."""
    found: dict[str, Series] = defaultdict(list)
    for line in head["exported"]:
        if match := LINE.match(line):
            found[match[1]].append((dict(LABEL.findall(match[2])), float(match[3])))
    return found


def test_every_metric_is_exported_under_the_names_that_the_table_says(scraped: dict[str, Series]) -> None:
    assert set(scraped) == {name for spec in METRICS.values() for name in spec.exported}


def test_labels_are_the_tags_the_service_and_rays_own(scraped: dict[str, Series]) -> None:
    for spec in METRICS.values():
        for name in spec.exported:
            for labels, _ in scraped[name]:
                ours = {label for label in labels if not label.startswith("otel_scope_")} - RAYS_OWN - {"le"}
                assert ours == {"service", *spec.tags}, name
                assert labels["service"] == "scraped"
                assert {"WorkerId", "NodeAddress"} <= labels.keys()


def test_values_arrive(scraped: dict[str, Series]) -> None:
    migrations = scraped["ray_mlora_job_migrations_total"]
    assert [(labels["reason"], value) for labels, value in migrations] == [("some-reason", 3.0)]
    pause = {labels["le"]: value for labels, value in scraped["ray_mlora_migration_pause_seconds_bucket"]}
    assert (pause["0.25"], pause["0.5"], pause["+Inf"]) == (0.0, 1.0, 1.0)
    assert {labels["state"]: value for labels, value in scraped["ray_mlora_current_jobs"]}["QUEUED"] == 1.0


@pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's package `prometheus` is missing")
def test_every_panel_of_the_dashboard_has_data(head: dict[str, Any], dashboard: list[str]) -> None:
    assert len(head["series"]) == len(set(dashboard))
    assert [expression for expression, number in head["series"].items() if number == 0] == []
