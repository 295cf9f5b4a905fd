"""A host that cannot do its work says which node it is on and what is missing there, before it trains anything."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mlora_ray.bases.linear_shapes import base_shapes
from mlora_ray.bases.resolve import num_parameters, resolve_base
from mlora_ray.errors import MloraError
from mlora_ray.host.startup import start_hosting
from mlora_ray.types import HostSettings


@pytest.fixture
def settings(tmp_path: Path) -> HostSettings:
    (tmp_path / "probe").write_text("here")
    return HostSettings(
        id="cpu-0",
        base=resolve_base("tiny-llama"),
        bundle_root=str(tmp_path / "bundles"),
        page_dir=str(tmp_path / "pages"),
        memory_limit_bytes=4 << 30,
        probe_uri=str(tmp_path / "probe"),
    )


def why_refused(settings: HostSettings, **values: object) -> str:
    with pytest.raises(MloraError) as caught:
        start_hosting(dataclasses.replace(settings, **values), "n" * 56, "10.0.0.7")  # type: ignore[arg-type]
    return str(caught.value)


def test_a_host_that_has_everything_starts_and_leaves_no_trace(settings: HostSettings, tmp_path: Path) -> None:
    hosting, info = start_hosting(settings, "n" * 56, "10.0.0.7")
    hosting.close()
    assert (info.base, info.node_ip) == ("tiny-llama:bfloat16", "10.0.0.7")
    assert list((tmp_path / "bundles").iterdir()) == []


def test_storage_that_cannot_be_read_or_not_be_written(settings: HostSettings, tmp_path: Path) -> None:
    unseen = why_refused(settings, probe_uri=str(tmp_path / "elsewhere"))
    assert "node 10.0.0.7 cannot reach the storage" in unseen
    assert "elsewhere: cannot be read" in unseen
    closed = why_refused(settings, bundle_root=str(tmp_path / "probe" / "bundles"))
    assert "node 10.0.0.7 cannot reach the storage" in closed
    assert "cannot be written" in closed
    unknown = why_refused(settings, probe_uri="nosuch://bucket/probe")
    assert "node 10.0.0.7 cannot reach the storage" in unknown


def test_memory_that_cannot_hold_the_base(settings: HostSettings) -> None:
    said = why_refused(settings, memory_limit_bytes=100_000)
    assert "node 10.0.0.7 has too little memory for base 'tiny-llama'" in said
    said = why_refused(settings, memory_limit_bytes=200 << 20)
    assert "node 10.0.0.7: memory limit 0.20 GiB is too small" in said


def test_parameters_are_counted_from_headers() -> None:
    path = resolve_base("tiny-llama").path
    assert num_parameters(path) == base_shapes(path).num_parameters


def test_a_base_that_is_not_here(settings: HostSettings, tmp_path: Path) -> None:
    gone = dataclasses.replace(settings.base, name=str(tmp_path / "gone"), path=str(tmp_path / "gone"))
    assert "node 10.0.0.7 has no base" in why_refused(settings, base=gone)
