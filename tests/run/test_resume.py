"""A run goes on only where its bits come out the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlora_ray.engine.numerics import machine_facts, recorded_facts
from mlora_ray.errors import InputError
from mlora_ray.run.directory import RunDirectory
from mlora_ray.run.options import TrainOptions
from mlora_ray.run.resume import as_before
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types.records import Machine


def directory_of(folder: Path, facts: dict[str, str]) -> RunDirectory:
    """The directory of a run on two threads of a CPU with these facts."""
    directory = RunDirectory(str(folder))
    directory.ours.mkdir()
    database = ControlDatabase(directory.database_url)
    database.add_run(command="train", base="tiny", machine=Machine("cpu", 2), started_at_s=1.0)
    database.bind_numerics("n-0", facts, "cpu", 2)
    database.close()
    return directory


def options(folder: Path) -> TrainOptions:
    return TrainOptions(job_file="jobs.yaml", out=str(folder), command="train", is_resume=True)


def test_the_same_machine_goes_on_with_device_and_threads(tmp_path: Path) -> None:
    resumed = as_before(options(tmp_path), directory_of(tmp_path, machine_facts("cpu")))
    assert (resumed.device, resumed.threads) == ("cpu", 2)


def test_every_other_fact_is_refused_with_both_values(tmp_path: Path) -> None:
    here = machine_facts("cpu")
    then = here | {"versions.torch": "1.13.0", "cpu_capability": "DEFAULT", "native_kernels": "sometimes"}
    directory = directory_of(tmp_path, then)
    with pytest.raises(InputError) as raised:
        as_before(options(tmp_path), directory)
    said = [str(mistake) for mistake in raised.value.mistakes]
    assert len(said) == 3
    for name, line in zip(("versions.torch", "cpu_capability", "native_kernels"), said, strict=True):
        assert all(word in line for word in (name, here[name], then[name], "--overwrite"))


def test_a_job_json_without_newer_facts_is_compared_in_what_it_has() -> None:
    assert recorded_facts({"versions": {"torch": "2.0"}}) == {"versions.torch": "2.0", "device": "cpu"}
    assert "cpu_capability" not in recorded_facts({"device": "NVIDIA X", "cpu_capability": "AVX2"})
