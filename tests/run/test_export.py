"""`export` beneath its connection: finished adapters and bundles out of a storage, hashes, PEFT's own loading."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mlora_ray.engine.adapter_layout import build_layout
from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.base import Base
from mlora_ray.engine.base_loading import load_base
from mlora_ray.engine.peft_format import peft_tensors, weights_sha256
from mlora_ray.errors import InputError, StorageError
from mlora_ray.host.adapter_outputs import write_outputs
from mlora_ray.run.export import export_bundle, export_finished
from mlora_ray.store.bundles import bundle_uri, write_bundle
from mlora_ray.types import JobSpec, JobState
from mlora_ray.types.records import JobRecord
from tests.conftest import real_spec


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> JobSpec:
    return real_spec(tmp_path_factory.mktemp("rows"), "a")


@pytest.fixture(scope="module")
def base(spec: JobSpec) -> Base:
    return load_base(spec.base, threads=1)


@pytest.fixture
def state(spec: JobSpec, base: Base) -> AdapterState:
    """Somewhere in training: no number of it is zero."""
    fresh = AdapterState.fresh(build_layout(spec.lora, base.groups), spec.lora, spec.train)
    generator = torch.Generator().manual_seed(1)
    return AdapterState(fresh.layout, torch.randn(fresh.flat.shape, generator=generator), 4)


def record(spec: JobSpec, **values: object) -> JobRecord:
    held = {"state": JobState.TRAINING, "epoch": 1, "host": "cpu-0", "step": 4, "bundle_uri": "", "weights_sha256": ""}
    held |= {"error": "", "num_tokens": 1, "submitted_at_s": 0.0} | values
    return JobRecord(spec=spec, **held)  # type: ignore[arg-type]


@pytest.mark.parametrize("root", ["", "memory://bucket/runs"])
def test_a_finished_adapter_comes_out_whole(
    root: str, tmp_path: Path, spec: JobSpec, base: Base, state: AdapterState
) -> None:
    folder, to = f"{root or tmp_path}/a", str(tmp_path / "out")
    sha256 = write_outputs(folder, spec, base, state, None)
    done = record(spec, state=JobState.SUCCEEDED, weights_sha256=sha256)
    assert export_finished(done, folder, to) == sha256
    assert sorted(p.name for p in Path(to).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "job.json",
    ]
    other = dataclasses.replace(done, weights_sha256="0" * 64)
    with pytest.raises(StorageError, match=f"sha256 is {sha256}, the service recorded 0000"):
        export_finished(other, folder, str(tmp_path / "never"))
    assert not (tmp_path / "never").exists()
    files, path = fsspec.core.url_to_fs(f"{folder}/adapter_model.safetensors")
    files.pipe_file(path, b"torn")
    with pytest.raises(StorageError, match="not a safetensors file"):
        export_finished(done, folder, str(tmp_path / "never"))


def test_the_last_bundle_comes_out_as_an_adapter_that_peft_loads(
    tmp_path: Path, spec: JobSpec, base: Base, state: AdapterState
) -> None:
    uri = bundle_uri(str(tmp_path / "bundles"), "a", 4, 1)
    write_bundle(uri, state.to_arrays(), {"job": "a", "step": 4, "epoch": 1})
    sha256 = export_bundle(record(spec, bundle_uri=uri), str(tmp_path / "out"))
    tensors = peft_tensors(state)
    assert sha256 == weights_sha256(tensors)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["weights_sha256"] == sha256
    model = AutoModelForCausalLM.from_pretrained(spec.base.path, dtype=torch.float32, local_files_only=True)
    loaded = PeftModel.from_pretrained(model, tmp_path / "out").state_dict()
    for name, tensor in tensors.items():
        inside = name.replace(".weight", ".default.weight")
        assert np.array_equal(loaded[inside].numpy(), tensor), name


def test_a_job_without_a_bundle_is_a_mistake(tmp_path: Path, spec: JobSpec) -> None:
    with pytest.raises(InputError, match="must be one with a committed bundle; it is QUEUED at step 0"):
        export_bundle(record(spec, state=JobState.QUEUED, step=0), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
