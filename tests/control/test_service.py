"""A service on a virtual clock, over hosts that train in no time: nothing lost, nothing twice, whoever dies."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from mlora_ray.clock import VirtualClock
from mlora_ray.errors import InputError
from mlora_ray.store.bundles import read_bundle
from mlora_ray.types import JobState
from tests.conftest import make_spec
from tests.fakes.host import FakeHost
from tests.fakes.service import Service, specs


def test_the_throughput_curve_ends_with_training(service: Service) -> None:
    service.submit(specs(1))
    service.run()
    service.tick()
    ended = service.control.result().samples
    service.tick(3)
    assert service.control.result().samples == ended
    assert ended[-1][1] == 0.0


def test_the_ledger_of_a_fake_is_a_real_bundle(service: Service) -> None:
    """The fakes write what real hosts write, or these tests would prove nothing."""
    service.submit(specs(1))
    service.run()
    arrays, meta = read_bundle(service.database.jobs()[0].bundle_uri)
    assert int(arrays["step"][0]) == 10
    assert meta["job"] == "job-0"
    assert isinstance(service.launched[0], FakeHost)


def test_unknown_names_are_told_all_at_once(service: Service) -> None:
    service.submit(specs(2))
    with pytest.raises(InputError) as caught:
        service.control.pause(["job-0", "jobb", "none"])
    assert [m.value for m in caught.value.mistakes] == ["jobb", "none"]
    assert "job-0, job-1" in caught.value.mistakes[0].allowed


def test_a_device_that_no_host_type_has_is_told_at_submit(service: Service) -> None:
    job = dataclasses.replace(make_spec("job-0"), device_type="cuda")
    with pytest.raises(InputError, match=r'job "job-0": device_type must be .*there are: h \(cpu\) \(found cuda\)'):
        service.submit([job])


@pytest.mark.parametrize("seed", range(6))
def test_random_deaths_moves_and_restarts_lose_nothing(tmp_path: Path, clock: VirtualClock, seed: int) -> None:
    """Hosts die, hang, drain and leak, the placement is replaced in mid-move: the steps are those of a quiet run."""
    chance = random.Random(seed)
    service = Service(tmp_path, clock, num_hosts=3, policy="rebalance", host_timeout_s=3.0)
    service.submit(specs(9, steps=40, save_steps=3))
    faults = (die, hang, leave, leak, restart, restart)
    for _ in range(60):
        if service.placement.is_done():
            break
        if chance.random() < 0.3 and service.transport.living:
            chance.choice(faults)(service, chance)
        service.tick(chance.randint(1, 2))
    for host in service.transport.living:
        host.memory_bytes = 0
    service.run()
    assert set(service.states().values()) == {JobState.SUCCEEDED}
    service.check_integrity()


def die(service: Service, chance: random.Random) -> None:
    chance.choice(service.transport.living).is_dead = True


def hang(service: Service, chance: random.Random) -> None:
    chance.choice(service.transport.living).is_hung = True


def leave(service: Service, chance: random.Random) -> None:
    host = chance.choice(service.transport.living)
    service.transport.leaving[host.node_id] = service.clock.now_s() + 5.0


def leak(service: Service, chance: random.Random) -> None:
    chance.choice(service.transport.living).memory_bytes = 2000


def restart(service: Service, chance: random.Random) -> None:
    service.restart()
