"""What `ray job submit --working-dir .` carries to the cluster from this repository."""

from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (".venv/lib/torch.so", ".git/objects/pack/a.pack", "runs/demo/adapter.safetensors", "dist/a.whl", "tests/a.py")
TRAVELS = {"mlora_ray", "deploy", "examples", "cluster.yaml"}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Of a copy of the tree, links as links, with all that lies about in a used checkout."""
    from ray._private.runtime_env.packaging import create_package

    tree = tmp_path_factory.mktemp("tree")
    for name in ("mlora_ray", "actors", "policies", "kernels", "deploy", "examples"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "benchmarks").mkdir()
    for name in (".rayignore", ".gitignore", "cluster.yaml"):
        shutil.copy(ROOT / name, tree / name)
    for name in HEAVY:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"heavy")
    path = tree.parent / "package.zip"
    create_package(str(tree), path, True, excludes=[], logger=logging.getLogger("quiet"))
    return zipfile.ZipFile(path)


def test_rooms_travel_once_as_real_files(package: zipfile.ZipFile) -> None:
    names = set(package.namelist())
    assert "mlora_ray/actors/placement.py" in names
    assert "mlora_ray/kernels/native.cpp" in names
    assert {name.split("/")[0] for name in names} <= TRAVELS | {".gitignore", ".rayignore"}


def test_nothing_heavy_travels(package: zipfile.ZipFile) -> None:
    assert [name for name in HEAVY if name in package.namelist()] == []
    assert sum(entry.file_size for entry in package.infolist()) < 3_000_000


def test_settings_for_a_service_travel(package: zipfile.ZipFile) -> None:
    names = [name for name in package.namelist() if name.startswith("deploy/") and not name.endswith("/")]
    assert sorted(names) == ["deploy/gcp.yaml", "deploy/settings.yaml"]
