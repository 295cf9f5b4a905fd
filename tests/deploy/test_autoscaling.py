"""The cluster file's node types behind a real autoscaler: every host type of the settings brings its own machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_host_type_brings_the_machine_it_asks_for() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",  # eight idle workers a node would starve two cores
    }
    command = [sys.executable, str(ROOT / "tests/deploy/bring_nodes.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "l4-spot": {"market": "spot", "accelerator": "l4"},
        "l4": {"market": "on-demand", "accelerator": "l4"},
        "cpu": {"market": "on-demand", "accelerator": "none"},
    }
