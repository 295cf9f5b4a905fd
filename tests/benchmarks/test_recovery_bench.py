"""The recovery benchmark once: a kill, a move and a bundle, on a cluster of its own."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mlora_ray.benchmarks import recovery


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_kill_and_a_move_are_timed() -> None:
    small = {"state_bytes": 600_000, "move_base": "tiny-llama"}  # the tiny base takes ranks up to 32
    found = recovery.run(num_jobs=4, num_hosts=2, num_kills=1, num_moves=1, **small)
    kill, move, bundle = found["rows"]
    assert len(kill["recoveries_s"]) == 2  # half of four jobs were on the host
    assert 0 < kill["recovery_s"] <= kill["recovery_max_s"]
    assert kill["others_ticks"] > 0
    assert 0 < move["move_pause_s"] <= move["move_pause_max_s"]
    assert move["state_bytes"] == pytest.approx(600_000, rel=0.05)
    assert bundle["bundle_s"] == pytest.approx(bundle["write_s"] + bundle["read_s"])
    out = io.StringIO()
    recovery.print_table(found, Console(file=out, width=120))
    assert "a host is killed" in out.getvalue()
