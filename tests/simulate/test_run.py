"""The simulation as a user runs it: table, JSON, Parquet, report, and the replay of a log."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas
import pytest
from typer.testing import CliRunner

from mlora_ray.cli.app import app
from mlora_ray.errors import InputError
from mlora_ray.policies.contract import load_policy
from mlora_ray.simulate.replay import replay
from mlora_ray.store.decision_log import DecisionLog
from mlora_ray.types import AdapterView, ClusterView, HostView, JobState, PolicyState


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


SMALL = ["--jobs", "30", "--windows", "2", "--hosts", "4", "--policies"]


def test_json_has_every_figure_and_tlora_is_the_better_of_its_bounds() -> None:
    code, out, _ = invoke(
        "simulate", "synthetic:philly", *SMALL, "independent,tlora,rate-remaining", "--load", "0.9,1.2", "--json"
    )
    assert code == 0
    held = json.loads(out)
    rows = held["rows"]
    assert [r["policy"] for r in rows] == ["independent", "tlora-1.3", "tlora-2.0", "rate-remaining", "tlora"] * 2
    wanted = {"policy", "load", "regime", "mean_jct_s", "p50_jct_s", "p99_jct_s", "tokens_per_busy_host_s"}
    assert all(wanted | {"utilisation", "bound_ratio", "decision_ms", "jain"} <= set(row) for row in rows)
    first = {row["policy"]: row for row in rows[:5]}
    assert first["tlora"]["mean_jct_s"] == min(first[f"tlora-{b}"]["mean_jct_s"] for b in ("1.3", "2.0"))
    assert all(row["bound_ratio"] >= 1 and row["num_windows"] == 2 for row in rows)
    assert "taken: duration below 60 s" in held["notes"][0]
    assert "t_floor 50 ms, c_a 0.5 ms; assumed: floor_s" in held["notes"][2]


def test_table_parquet_and_report(tmp_path: Path) -> None:
    code, shown, _ = invoke("simulate", *SMALL, "srpt,ours", "--set-b", "--out", str(tmp_path / "out"))
    assert code == 0
    assert "load 0.9, 700 tokens per step, 2 windows" in shown
    assert "x bound" in shown
    jobs = pandas.read_parquet(tmp_path / "out" / "jobs.parquet")
    assert len(jobs) == 2 * 2 * 30
    assert ((jobs.finished_s - jobs.submit_s - jobs.completion_s).abs() < 1e-6).all()
    assert set(jobs.lora_rank) <= {8, 16, 32, 64}
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert len(json.loads((tmp_path / "out" / "simulation.json").read_text())["rows"]) == 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["simulate", "nothing"], "synthetic:philly"),
        (["simulate", "--policies", "best"], "allowed are"),
        (["simulate", "--profile", "h200"], "one of h100"),
        (["simulate", "--hosts", "0"], "hosts must be between 1 and"),
        (["simulate", "--days", "0.0001"], "days"),
        (["simulate", "--jobs", "1000000"], "a trace with 1000000 jobs"),
        (["simulate", "--load", "1e-300"], "load must be between 0.01 and 10"),
        (["simulate", "--profile", "h100-qwen-32b", "--profile", "h100-qwen-32b"], "one profile a base"),
        (["simulate", "--out", "/dev/null/sim"], "out must be "),
        (["simulate", "--policies", "tests.builders.jobs:NOTHING"], "cannot be loaded"),
        (["simulate", "--load", "much"], "load must be numbers"),
        (["replay", "none.jsonl"], "a decision log"),
        (["replay", "none.jsonl", "--policy", "fifo"], "a decision log"),
    ],
)
def test_wrong_input_is_named(arguments: list[str], why: str) -> None:
    code, _, error = invoke(*arguments)
    assert code == 1
    assert why in error


def test_a_log_replays_to_identical_actions_and_another_policy_shows_what_if(tmp_path: Path) -> None:
    log = str(tmp_path / "decisions.jsonl")
    policy, state = load_policy("independent"), PolicyState()
    one = AdapterView(
        id="a",
        base="b",
        epoch=1,
        state=JobState.QUEUED,
        lora_rank=8,
        step_tokens=100.0,
        tokens_done=0,
        tokens_total=1000,
        submitted_at_s=0.0,
        state_bytes=0,
    )
    two = dataclasses.replace(one, id="z", submitted_at_s=1.0)
    hosts = (HostView(id="h0", base="b", device_type="cpu"),)
    for now_s, adapters in ((1.0, (one,)), (2.0, (one, two))):
        view = ClusterView(now_s=now_s, hosts=hosts, adapters=adapters)
        actions, state = policy.decide(view, state)
        DecisionLog(log, "independent").append(view, state, actions, [])
    assert replay(log, "independent") == (2, [])
    code, out, _ = invoke("replay", log)
    assert code == 0
    assert "2 decisions, 2 identical under the log's own policy" in out
    code, out, _ = invoke("replay", log, "--policy", "tlora")
    assert code == 4
    assert '+ {"type":"Place","adapter":"z","host":"h0"' in out
    held = json.loads(invoke("replay", log, "--policy", "tlora", "--json")[1])
    assert held["different"] == 1
    assert [a["adapter"] for a in held["differences"][0]["replayed"]] == ["a", "z"]
    Path(log).write_text('{"view": 3}\n')
    with pytest.raises(InputError, match="a decision log"):
        replay(log, "independent")
