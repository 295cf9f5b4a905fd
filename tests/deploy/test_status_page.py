"""The status page on a real Ray Serve, configured as the RayService manifest says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def answers() -> list[tuple[int, dict[str, object]]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, str(ROOT / "tests/deploy/serve_page.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]


def test_the_page_is_there_before_the_service(answers: list[tuple[int, dict[str, object]]]) -> None:
    healthy, early = answers[:2]
    assert healthy == (200, {"page": "ok"})
    assert early[0] == 503
    assert early[1]["error"] == "no placement service 'mlora' is on this cluster"


def test_the_page_counts_and_names_nobody(answers: list[tuple[int, dict[str, object]]]) -> None:
    code, status = answers[2]
    assert code == 200
    assert status == {
        "service": "mlora",
        "phase": "training",
        "jobs": {"TRAINING": 1, "QUEUED": 1},
        "hosts": {"alive": 1},
        "tokens_per_s": 12.3,
        "share_done": 0.25,
        "has_trouble": False,
    }


def test_there_is_nothing_else(answers: list[tuple[int, dict[str, object]]]) -> None:
    assert [code for code, _ in answers[3:]] == [404, 405]
