"""What a real Ray exports of our metrics, and what a real Prometheus makes of the dashboard on it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from mlora_ray.control.metric_table import METRICS

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^(ray_mlora_\w+)\{(.*)\} (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
RAYS_OWN = {"NodeAddress", "SessionName", "Version", "WorkerId", "Component"}
Series = list[tuple[dict[str, str], float]]


def dashboard() -> list[str]:
    """Every expression of the dashboard, with its variables filled in."""
    panels = json.loads((ROOT / "deploy/grafana/mlora_ray.json").read_text(encoding="utf-8"))["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return [one.replace("$service", "scraped").replace("$__rate_interval", "5m") for one in found]


@pytest.fixture(scope="module")
def run() -> dict[str, Any]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "1000",
    }
    command = [sys.executable, str(ROOT / "tests/deploy/scrape.py")]
    asked = "\n".join(dashboard()) if shutil.which("prometheus") else ""
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=240, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def scraped(run: dict[str, Any]) -> dict[str, Series]:
    """Exported name to its series: labels and value."""
    found: dict[str, Series] = defaultdict(list)
    for line in run["exported"]:
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
def test_every_panel_of_the_dashboard_has_data(run: dict[str, Any]) -> None:
    assert len(run["series"]) == len(set(dashboard()))
    assert [expression for expression, number in run["series"].items() if number == 0] == []
