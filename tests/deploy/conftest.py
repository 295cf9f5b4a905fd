"""One Ray head for the tests of scraping, of the status page and of the spot notice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN_S = 280.0


@pytest.fixture(scope="session")
def dashboard() -> list[str]:
    """Every expression of the dashboard, with its variables filled in."""
    panels = json.loads((ROOT / "deploy/grafana/mlora_ray.json").read_text(encoding="utf-8"))["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return [one.replace("$service", "scraped").replace("$__rate_interval", "5m") for one in found]


@pytest.fixture(scope="session")
def head(dashboard: list[str]) -> dict[str, Any]:
    """What head.py found."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "1000",
    }
    command = [sys.executable, "-m", "tests.deploy.head"]
    asked = "\n".join(dashboard) if shutil.which("prometheus") else ""
    done = subprocess.run(
        command, input=asked, capture_output=True, text=True, timeout=RUN_S, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
