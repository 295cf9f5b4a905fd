"""One local Ray for the tests of a module: a process can be a driver of one cluster at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlora_ray.actors import local_cluster


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with local_cluster.embedded(num_cpus=4, note=tmp_path_factory.mktemp("ray") / "ray_dir"):
        yield
