"""A regular expression that does not end is a mistake, and honest ones cost no process."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from mlora_ray.config.job_file import read_job_file
from mlora_ray.errors import InputError
from mlora_ray.prepare.job_specs import prepare
from mlora_ray.prepare.pattern_time import LIMIT_S, slow_patterns

NAMES = [f"model.layers.{i}.self_attn.{name}_proj" for i in range(4) for name in "qkvo"]
ENDLESS = "([a-z._0-9]+)+!"


def test_what_does_not_end_is_found_among_what_does() -> None:
    patterns = ["q_proj.*", ENDLESS, r".*\.(k|v)_proj", "(.*)*(.*)*(.*)*X", "(("]
    assert sorted(slow_patterns(patterns, NAMES)) == sorted([ENDLESS, "(.*)*(.*)*(.*)*X"])


def test_plain_names_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    assert slow_patterns(["q_proj", "layers.0", "k|v"], NAMES) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_modules", f"'{ENDLESS}'"),
        ("exclude_modules", f"'{ENDLESS}'"),
        ("rank_pattern", f"{{'{ENDLESS}': 4}}"),
        ("alpha_pattern", f"{{'{ENDLESS}': 4}}"),
    ],
)
def test_it_is_a_mistake_of_its_job_within_seconds(field: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    path = tmp_path / "jobs.yaml"
    path.write_text(f"base: tiny-llama\njobs:\n  - {{name: a, train: rows.jsonl, max_steps: 1, {field}: {value}}}\n")
    began_s = time.monotonic()
    with pytest.raises(InputError, match=rf'job "a": {field} must be a regular expression that ends'):
        prepare(read_job_file(path), None)
    assert time.monotonic() - began_s < LIMIT_S + 8  # the rest is the base's own loading
