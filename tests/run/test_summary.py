"""summary.json: states, sums and strict JSON; its table on a terminal and its lines without one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mlora_ray.display.summary_table import print_summary
from mlora_ray.errors import StorageError
from mlora_ray.run.summary import build_summary, mean_rate, while_training, with_recorded_figures, write_summary
from mlora_ray.store.run_files import read_metrics
from tests.builders.runs import TASKS, make_run


def _strict(path: Path) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def _build(run_dir: Path, **fields: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"command": "c", "device": "cpu", "base": "tiny-llama", "started_at": "2026-01-01T00:00:00"}
    facts |= {"wall_s": 2.0, "cpu_s": 3.5, "peak_bytes": 10, "failed": {}, "cross_eval": None, "throughput": []}
    facts["names"] = sorted(path.parent.name for path in run_dir.glob("*/job.json"))
    return build_summary(str(run_dir), **(facts | fields))


def test_a_run_in_numbers(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", failed={"dates": "loss is inf at step 9"}, num_steps=20)
    held = _strict(run_dir / "summary.json")
    assert [job["name"] for job in held["jobs"]] == list(TASKS)
    assert held["num_jobs"] == 8
    assert held["failed"] == [{"name": "dates", "error": "loss is inf at step 9"}]
    assert held["succeeded"] == [name for name in TASKS if name != "dates"]
    lines = {name: read_metrics(run_dir / name / "metrics.jsonl") for name in TASKS}
    assert held["tokens"] == sum(line["num_tokens"] for steps in lines.values() for line in steps)
    sql = next(job for job in held["jobs"] if job["name"] == "sql")
    assert sql["steps"] == len(lines["sql"])
    assert sql["eval_loss"] == json.loads((run_dir / "sql" / "eval.json").read_text())["adapter"]["loss"]
    last = lines["sql"][-max(1, len(lines["sql"]) // 10) :]
    assert sql["train_loss"] == pytest.approx(sum(line["loss"] for line in last) / len(last))


def test_not_a_number_becomes_null(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", TASKS[:2], num_steps=9, nan_from={"dates": 1})
    cross = {"adapters": ["dates"], "rows": ["dates"], "loss": [[float("nan")]], "base_loss": [float("inf")]}
    path = write_summary(str(run_dir), _build(run_dir, cross_eval=cross, wall_s=float("inf")))
    held = _strict(Path(path))
    assert held["cross_eval"] == {"adapters": ["dates"], "rows": ["dates"], "loss": [[None]], "base_loss": [None]}
    assert next(job for job in held["jobs"] if job["name"] == "dates")["train_loss"] is None
    assert held["wall_s"] is None
    assert not list(run_dir.glob("*.tmp"))


def test_states_of_unfinished_jobs_and_the_order_given(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", TASKS[:2], num_steps=5)
    (run_dir / "dates" / "adapter_model.safetensors").unlink()
    held = _build(run_dir, names=["waiting", "dates", "unit-conversion"])
    states = {job["name"]: job["state"] for job in held["jobs"]}
    assert states == {"waiting": "QUEUED", "dates": "PAUSED", "unit-conversion": "SUCCEEDED"}
    assert list(states) == ["waiting", "dates", "unit-conversion"]


def test_rates(tmp_path: Path) -> None:
    rates = [0.0, 0.0, 100.0, 20.0, 30.0, 30.0, 30.0]
    samples = [{"t_s": at, "tokens_per_s": rate} for at, rate in zip([1.0, 2, 3, 6, 7, 8, 9], rates, strict=True)]
    assert [sample["t_s"] for sample in while_training(samples)] == [2, 3, 6, 7]
    assert mean_rate(while_training(samples)) == pytest.approx((100 + 3 * 20 + 30) / 5)
    assert _build(tmp_path, throughput=samples)["tokens_per_s"] == pytest.approx(38)
    assert while_training(samples[:2]) == []
    assert mean_rate([]) is None
    assert _build(tmp_path)["tokens_per_s"] == 0.0
    assert _build(tmp_path, wall_s=0.0)["tokens_per_s"] is None


def test_metrics_of_a_resumed_and_of_a_killed_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    assert [line["loss"] for line in read_metrics(path)] == [3.0, 1.5]
    path.write_text('{"step": 1, "loss": 3.0}\nbroken\n{"step": 2, "loss": 2.0}\n')
    with pytest.raises(StorageError, match=r"metrics\.jsonl:2"):
        read_metrics(path)


def test_printed_on_a_terminal_and_without_one(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", num_steps=8, failed={"dates": "loss is [bold]inf[/bold]"})
    summary = json.loads((run_dir / "summary.json").read_text())
    terminal = Console(width=130, force_terminal=True, color_system=None, file=io.StringIO())
    print_summary(summary, terminal)
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert all(name in text for name in TASKS)
    assert "7 of 8 jobs succeeded · 1 failed" in text
    assert "failed dates: loss is [bold]inf[/bold]" in text
    narrow = Console(width=80, force_terminal=True, color_system=None, file=io.StringIO())
    print_summary(summary, narrow)
    heads = narrow.file.getvalue().split("\n")[1].split()  # type: ignore[attr-defined]
    assert "seconds" not in heads
    assert "sha256" in heads
    assert "…" not in narrow.file.getvalue()  # type: ignore[attr-defined]
    plain = Console(width=40, force_terminal=False, file=io.StringIO())
    print_summary(summary, plain)
    lines = plain.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].split("\t")[:3] == ["job", "state", "steps"]
    assert lines[1].startswith("dates\tFAILED")
    assert len(lines) == 1 + 8 + 2


def test_rows_that_were_dropped_are_said(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", TASKS[:2], num_steps=5)
    path = run_dir / TASKS[0] / "job.json"
    job = json.loads(path.read_text())
    job["spec"] = {"train_rows": {"counts": {"num_dropped": 3}}, "eval_rows": {"counts": {"num_dropped": 1}}}
    path.write_text(json.dumps(job))
    summary = _build(run_dir)
    assert {job["name"]: job["dropped_rows"] for job in summary["jobs"]} == {TASKS[0]: 4, TASKS[1]: 0}
    console = Console(width=100, force_terminal=False, file=io.StringIO())
    print_summary(summary, console)
    said = [line for line in console.file.getvalue().splitlines() if "dropped" in line]  # type: ignore[attr-defined]
    assert said == [f"{TASKS[0]}: 4 rows dropped, no target within max_length"]


def test_many_jobs_are_cut_with_what_failed_first(tmp_path: Path) -> None:
    jobs = [{"name": f"j{i}", "state": "SUCCEEDED", "steps": 1, "tokens": 2, "train_loss": 1.0, "base_eval_loss": None,
             "eval_loss": None, "seconds": 1.0, "weights_sha256": "ab" * 32} for i in range(100)]  # fmt: skip
    jobs[99] |= {"state": "FAILED"}
    summary = _build(tmp_path) | {"jobs": jobs, "num_jobs": 100, "failed": [{"name": "j99", "error": "x"}]}
    console = Console(width=100, force_terminal=False, file=io.StringIO())
    print_summary(summary, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[1].startswith("j99")
    assert "… and 60 more jobs in summary.json" in lines


def test_figures_of_the_training_outlive_an_idle_resume(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", TASKS[:2], num_steps=5)
    recorded = _strict(run_dir / "summary.json")
    idle = with_recorded_figures(recorded, _build(run_dir, wall_s=0.1, cpu_s=0.1, peak_bytes=1, device=""))
    for name in ("wall_s", "cpu_s", "peak_bytes", "tokens_per_s", "throughput", "device", "started_at"):
        assert idle[name] == recorded[name]
    assert idle["command"] == "c"
    assert with_recorded_figures({}, {"wall_s": 0.1}) == {"wall_s": 0.1}


def test_a_full_disk_leaves_no_half_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_summary(str(tmp_path), {"a": 1})
    assert list(tmp_path.iterdir()) == []
