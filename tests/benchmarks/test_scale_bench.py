"""The scale benchmark on a small service: everything is placed, lost, found again, and timed."""

from __future__ import annotations

import io

from rich.console import Console

from mlora_ray.benchmarks import scale


def test_a_small_service_is_timed_from_its_first_tick_to_its_restart() -> None:
    found = scale.run(num_adapters=40, num_hosts=4, num_ticks=12, save_steps=5, policies=("rebalance",))
    assert [row["policy"] for row in found["rows"]] == ["rebalance"]
    assert set(found) >= {"command", "commit", "machine", "seed", "rows", "bars"}
    for row in found["rows"]:
        assert row["commits"] >= 40
        assert 0 < row["decision_ms"] < row["tick_ms"] <= row["tick_ms_max"]
        assert 0 < row["decision_ms"] <= row["decision_ms_max"]
        assert 0 < row["open_s"] < row["restart_s"]
        assert row["restart_ticks"] >= 1
    out = io.StringIO()
    scale.print_table(found, Console(file=out, width=160))
    assert "40 adapters, 4 hosts" in out.getvalue()
