"""The examples in the docstrings of every public name, run in the order of a user's day."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest

import mlora_ray as mr
from mlora_ray.actors import local_cluster

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
ERRORS = {"InputError", "JobError", "Mistake", "MloraError", "StorageError"}  # errors.py says what each means
LOCAL = ("Job", "train", "Run", "JobResult", "check", "start", "resume", "open_run", "verify", "load_adapter")
LOCAL += ("Callback", "Interrupted")
ON_A_CLUSTER = ("connect", "Cluster")


def test_every_public_name_has_an_example() -> None:
    assert set(LOCAL + ON_A_CLUSTER) == set(mr.__all__) - ERRORS - {"__version__"}


@pytest.mark.timeout(600)
def test_the_examples(tmp_path: Path) -> None:
    known: dict[str, Any] = {name: getattr(mr, name) for name in mr.__all__}
    known |= {name: tmp_path / name for name in ("out", "other", "third")}
    known |= {"storage": str(tmp_path / "storage"), "exported": str(tmp_path / "exported"), "address": "auto"}
    for name in LOCAL:
        run_examples(name, known)
    with local_cluster.embedded(num_cpus=2, note=tmp_path / "ray_dir"):
        for name in ON_A_CLUSTER:
            run_examples(name, known)


def run_examples(name: str, known: dict[str, Any]) -> None:
    text = getattr(mr, name).__doc__
    test = doctest.DocTestParser().get_doctest(text, known, name, None, 0)
    assert test.examples, name
    found: list[str] = []
    result = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=found.append, clear_globs=False)
    known.update(test.globs)
    assert result.failed == 0, "".join(found)
