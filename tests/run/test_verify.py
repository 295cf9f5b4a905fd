"""`verify` on the tiny base: what was trained beside a neighbour comes out again alone; every tampering is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlora_ray.bases.resolve import resolve_base
from mlora_ray.data.batch_sampler import total_steps
from mlora_ray.data.tokenized_rows import Rows, make_rows, rows_sha256, to_bytes
from mlora_ray.errors import InputError, StorageError
from mlora_ray.run.verify import run_verify, verify
from mlora_ray.types import BaseSpec, JobSpec, LoraSpec, RowsRef, StepReport, TrainSpec


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with two jobs that trained side by side."""
    import torch

    from mlora_ray.engine.base_loading import load_base
    from mlora_ray.engine.engine import Engine
    from mlora_ray.host.adapter_outputs import write_outputs

    run_dir = tmp_path_factory.mktemp("runs") / "pair"
    spec = resolve_base("tiny-llama", "float32")
    threads = torch.get_num_threads()
    base = load_base(spec, threads=1)
    engine = Engine(base, page_dir=str(run_dir / ".mlora" / "pages"))
    jobs = [_job(run_dir, spec, "first", r=4, seed=3), _job(run_dir, spec, "second", r=8, seed=5)]
    lines: dict[str, list[str]] = {job.name: [] for job, _ in jobs}
    for job, rows in jobs:
        engine.admit(job, rows)
    while engine.has_work:
        for report in engine.step():
            assert isinstance(report, StepReport), report
            lines[report.job].append(_line(report))
    for job, _ in jobs:
        write_outputs(str(run_dir / job.name), job, base, engine.state(job.name), None)
        (run_dir / job.name / "metrics.jsonl").write_text("".join(lines[job.name]))
    engine.close()
    torch.set_num_threads(threads)
    return run_dir


def _job(run_dir: Path, base: BaseSpec, name: str, *, r: int, seed: int) -> tuple[JobSpec, Rows]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 30, 12).tolist()
    rows = make_rows([(rng.integers(5, 500, n).tolist(), [False] * 3 + [True] * (n - 3)) for n in lengths])
    path = run_dir / ".mlora" / "data" / f"{rows_sha256(rows)}.rows"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(rows))
    ref = RowsRef(
        uri=str(path), sha256=rows_sha256(rows), source="made", num_rows=rows.num_rows, num_tokens=len(rows.tokens),
        num_target_tokens=int(rows.num_targets().sum()), num_truncated=0, max_row_tokens=int(rows.lengths.max()),
    )  # fmt: skip
    lora = LoraSpec(r=r, lora_dropout=0.1, rank_pattern=(("q_proj", 2),))
    train = TrainSpec(batch_size=4, num_epochs=2, seed=seed, learning_rate=1e-3)
    steps = total_steps(train, rows.num_rows)
    return JobSpec(name=name, base=base, lora=lora, train=train, train_rows=ref, total_steps=steps), rows


def _line(report: StepReport) -> str:
    names = ("step", "loss", "learning_rate", "grad_norm", "num_tokens", "num_target_tokens", "seconds")
    return json.dumps({"epoch": report.data_epoch} | {name: getattr(report, name) for name in names}) + "\n"


@pytest.fixture
def job_dir(trained: Path, tmp_path: Path) -> Path:
    """The first job's folder in a copy of the run, to tamper with."""
    return Path(shutil.copytree(trained, tmp_path / "moved")) / "first"


def _edit_json(path: Path, change: Callable[[dict], None]) -> None:
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


def test_a_job_trained_beside_another_is_identical_alone(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = json.loads((trained / "second" / "job.json").read_text())["weights_sha256"]
    assert run_verify(str(trained / "second"), force=False, as_json=False) == 0
    out, err = capsys.readouterr()
    assert out == f"identical {expected}\n"
    assert "done second: step 6/6" in err


def test_a_moved_run_finds_its_rows(job_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _edit_json(job_dir / "job.json", lambda job: job["spec"]["train_rows"].update(uri="/nowhere/gone.rows"))
    assert run_verify(str(job_dir), force=False, as_json=True) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["identical"]
    assert result["weights_sha256"] == result["expected_sha256"]
    assert result["first_step"] is result["first_tensor"] is None


def test_a_tampered_tensor_is_found(job_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = job_dir / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[3]
    changed = tensors[name].reshape(-1)
    changed[7] = np.nextafter(changed[7], np.float32(9))
    save_file(tensors, path)
    assert run_verify(str(job_dir), force=False, as_json=False) == 4
    out = capsys.readouterr().out
    assert "first step that differs: all steps are equal" in out
    assert f"first tensor that differs: {name} ({name} differs in 1 of {changed.size:,} values" in out


def test_a_tampered_metrics_line_is_found(job_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = job_dir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    before = lines[2]["loss"]
    lines[2]["loss"] = float(np.nextafter(before, 9.0))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run_verify(str(job_dir), force=False, as_json=False) == 4
    out = capsys.readouterr().out
    assert f"first step that differs: step 3: loss {before!r} != {lines[2]['loss']!r}" in out
    assert "all tensors are equal" in out


def test_a_missing_line_and_another_recorded_hash_are_found(job_dir: Path) -> None:
    path = job_dir / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    result = verify(str(job_dir))
    assert (result.identical, result.first_step, result.what) == (False, 6, "no line in metrics.jsonl")
    _edit_json(job_dir / "job.json", lambda job: job.update(weights_sha256="0" * 64))
    assert not verify(str(job_dir)).identical


def test_another_machine_is_refused_with_every_difference(job_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(job: dict) -> None:
        job["versions"]["torch"] = "1.13.0"
        job["threads"] = 4096
        job["cpu_capability"] = "DEFAULT"
        job["native_kernels"] = not job["native_kernels"]
        job["dtype"] = "bfloat16"
        job["row_tile"] = 64

    _edit_json(job_dir / "job.json", change)
    with pytest.raises(InputError) as raised:
        verify(str(job_dir))
    differing = ["versions.torch", "cpu_capability", "native_kernels", "dtype", "row_tile", "threads"]
    assert [mistake.field for mistake in raised.value.mistakes] == [f"recorded {name}" for name in differing]
    assert run_verify(str(job_dir), force=False, as_json=False) == 1
    assert "--force" in capsys.readouterr().err


def test_another_base_is_refused_and_forced(job_dir: Path) -> None:
    _edit_json(job_dir / "job.json", lambda job: job.update(base_sha256="0" * 64))
    with pytest.raises(InputError, match="base_sha256"):
        verify(str(job_dir))
    assert verify(str(job_dir), force=True).identical


def test_another_config_or_tokenizer_is_refused_and_forced(job_dir: Path) -> None:
    _edit_json(job_dir / "job.json", lambda job: job.update(base_files_sha256="0" * 64))
    with pytest.raises(InputError, match=r"base_files_sha256.*config.json, tokenizer or chat template"):
        verify(str(job_dir))
    assert verify(str(job_dir), force=True).identical


def test_changed_rows_and_no_job_are_clear_errors(job_dir: Path, tmp_path: Path) -> None:
    first, other = sorted((job_dir.parent / ".mlora" / "data").iterdir())
    first_bytes = first.read_bytes()
    first.write_bytes(other.read_bytes())
    other.write_bytes(first_bytes)
    with pytest.raises(StorageError, match="not the rows that were trained on"):
        verify(str(job_dir))
    with pytest.raises(InputError, match=r"job\.json"):
        verify(str(tmp_path))
