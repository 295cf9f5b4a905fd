"""Ray's autoscaler for real: nodes come for jobs, one is lost, all jobs end, all nodes go, the budget holds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlora_ray.benchmarks.autoscale import is_as_promised

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 600.0
END_S = 60.0


@pytest.mark.full
@pytest.mark.timeout(DEADLINE_S + 2 * END_S)
def test_from_no_node_to_all_done_to_no_node() -> None:
    """Twelve jobs and two hosts; `python -m mlora_ray.benchmarks.autoscale` does it with forty and four."""
    command = [sys.executable, "-m", "mlora_ray.benchmarks.autoscale", "--jobs", "12", "--max-hosts", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as drill:
        try:
            out, log = drill.communicate(timeout=DEADLINE_S)
        except BaseException:
            drill.send_signal(signal.SIGTERM)  # it ends its nodes
            drill.communicate(timeout=END_S)
            raise
    assert drill.returncode == 0, f"{out[-3000:]}\n{log[-3000:]}"
    row = json.loads(out)["rows"][0]
    assert is_as_promised(row)
    assert row["succeeded"] == row["with_every_step_once"] == 12
    is_needed = row["replaced_s"] < row["all_done_s"]  # a fast machine may do the rest on one host
    assert row["hosts_launched"] >= 2 + is_needed
    assert row["most_nodes"] == 2
    assert all(seconds > 0 for seconds in row["node_seconds"].values())
    assert 0 < row["first_host_s"] <= row["killed_s"] <= row["replaced_s"] <= row["zero_hosts_s"] <= row["zero_nodes_s"]


def test_a_row_that_breaks_a_promise_is_found() -> None:
    good = {"jobs": 2, "succeeded": 2, "with_every_step_once": 2, "max_hosts": 2, "max_cost_per_hour": 4.0}
    good |= {"most_hosts": 2, "most_nodes": 2, "most_cost_of_hosts": 4.0, "most_cost_of_nodes": 4.0}
    assert is_as_promised(good)
    for key, worse in (("succeeded", 1), ("with_every_step_once", 1), ("most_nodes", 3), ("most_cost_of_nodes", 4.5)):
        assert not is_as_promised({**good, key: worse}), key
