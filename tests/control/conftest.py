"""A service of two hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlora_ray.clock import VirtualClock
from tests.fakes.scripted import Scripted
from tests.fakes.service import Service


@pytest.fixture
def service(tmp_path: Path, clock: VirtualClock) -> Service:
    return Service(tmp_path, clock)


@pytest.fixture
def scripted(tmp_path: Path, clock: VirtualClock) -> Service:
    Scripted.next = None
    return Service(tmp_path, clock, policy="tests.fakes.scripted:Scripted")
