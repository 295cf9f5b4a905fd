"""One local Ray for all tests of actors: private directory, no dashboard, no authentication."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlora_ray import cluster


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with cluster.embedded(num_cpus=4, note=tmp_path_factory.mktemp("ray") / "ray_dir"):
        yield
