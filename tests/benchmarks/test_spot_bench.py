"""The spot benchmark on a few starts of a made-up series: its JSON, its table, its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlora_ray.benchmarks import spot

ARGUMENTS = ["--starts", "3", "--jobs", "5", "--min-s", "1200"]


@pytest.fixture
def series(tmp_path: Path) -> str:
    """Half of the time there is a machine, for an hour and a half at once."""
    lines = [f"z,{at * 5400},{at % 2}" for at in range(200)]
    path = tmp_path / "spot.csv"
    path.write_text("\n".join(["zone,at_s,available", *lines]))
    return str(path)


def test_json_has_a_row_for_each_contender_and_the_checks(series: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert spot.main([series, "--json", *ARGUMENTS]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"command", "commit", "machine", "seed", "rows", "checks", "starts", "settings"}
    rows = {row["contender"]: row for row in found["rows"]}
    assert list(rows) == list(spot.CONTENDERS)
    assert all(row["jobs"] == 15 and row["hard"] >= row["hard_met"] >= 0 for row in rows.values())
    assert rows["on-time"]["cost"] < rows["uniform-progress"]["cost"] < rows["fixed"]["cost"]
    assert found["checks"]["starts_that_miss_what_rival_meets"] == 0
    assert [one["seed"] for one in found["starts"]] == [0, 1, 2]


def test_the_table_names_everybody_and_the_checks(series: str, capsys: pytest.CaptureFixture[str]) -> None:
    spot.main([series, *ARGUMENTS, "--contenders", "uniform-progress", "on-time"])
    shown = capsys.readouterr().out
    assert "3 random starts" in shown
    assert "starts that cost more: 0" in shown


def test_checks_compare_start_by_start() -> None:
    def one(cost: float, **late: float) -> dict[str, object]:
        return {"cost": cost, "late": late}

    starts = [
        {"contenders": {"on-time": one(1.0, a=100.0), "uniform-progress": one(2.0, b=5.0)}},
        {"contenders": {"on-time": one(3.0, c=300.0), "uniform-progress": one(2.0)}},
        {"contenders": {"on-time": one(2.0), "uniform-progress": one(2.0)}},
    ]
    found = spot.compare(starts, cold_s=200.0)
    assert found["starts_that_miss_what_rival_meets"] == found["deadlines_missed_that_rival_meets"] == 2
    assert found["of_these_with_time_to_start_a_machine"] == 1
    assert found["deadlines_met_that_rival_misses"] == 1
    assert found["starts_that_cost_more"] == 1
    assert found["mean_cost_ratio"] == pytest.approx(1.0)


def test_a_file_that_is_not_there_is_said_and_ends_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert spot.main(["gone.csv"]) == 1
    assert "gone.csv: series must be a readable file" in capsys.readouterr().err
