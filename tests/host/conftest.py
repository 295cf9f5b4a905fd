"""A host on the tiny base."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlora_ray.clock import VirtualClock
from mlora_ray.engine.base import Base
from mlora_ray.engine.base_loading import load_base
from tests.conftest import real_spec
from tests.host.one_host import Host


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(real_spec(tmp_path_factory.mktemp("rows"), "any").base, threads=1)


@pytest.fixture
def host(tmp_path: Path, base: Base, clock: VirtualClock) -> Host:
    return Host(tmp_path, base, clock)
