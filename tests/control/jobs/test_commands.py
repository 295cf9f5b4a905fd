"""What users ask of jobs."""

from __future__ import annotations

import pytest

from mlora_ray.errors import InputError
from mlora_ray.store.bundles import read_bundle
from mlora_ray.types import JobState
from tests.conftest import make_spec
from tests.fakes.service import Service, specs


def test_pause_saves_and_resume_goes_on(service: Service) -> None:
    service.submit(specs(3, save_steps=0))
    service.tick(5)
    assert service.control.pause(["job-0", "job-2"]) == ("job-0", "job-2")
    service.tick(3)
    assert [s.value for s in service.states().values()] == ["PAUSED", "TRAINING", "PAUSED"]
    assert service.job("job-0").record.step > 0
    service.tick(10)
    assert service.states()["job-0"] is JobState.PAUSED
    assert service.control.resume(["job-0"]) == ("job-0",)
    assert service.control.resume(["job-1"]) == ()
    service.control.resume(["job-2"])
    service.run()
    service.check_integrity()


@pytest.mark.parametrize("how", ["resume", "submit"])
def test_a_job_that_is_asked_back_while_it_is_saved_for_a_pause_goes_on(service: Service, how: str) -> None:
    service.submit(specs(2, steps=20))
    service.tick(5)
    service.control.pause(["job-0"])
    if how == "resume":
        assert service.control.resume(["job-0"]) == ("job-0",)
    else:
        service.submit(specs(2, steps=20))
    assert service.placement.commands.fence_paused() == []
    service.run()
    assert set(service.states().values()) == {JobState.SUCCEEDED}
    service.check_integrity()


def test_the_same_jobs_again_go_on_and_others_of_their_name_are_refused(service: Service) -> None:
    service.submit(specs(2))
    service.tick(5)
    service.control.pause([])
    service.tick(3)
    service.submit(specs(3))
    with pytest.raises(InputError, match=r'job "job-1": train\.max_steps must be'):
        service.submit([make_spec("job-1", steps=99)])
    service.run()
    assert len(service.states()) == 3
    service.check_integrity()


def test_cancelled_jobs_leave_their_host_and_keep_their_bundle(service: Service) -> None:
    service.submit(specs(3, steps=50))
    service.tick(8)
    assert service.control.cancel(["job-1"]) == ("job-1",)
    service.tick(2)
    assert all("job-1" not in h.jobs for h in service.transport.living)
    record = service.job("job-1").record
    assert record.state is JobState.CANCELLED
    assert read_bundle(record.bundle_uri)
    service.run()
    assert service.states()["job-1"] is JobState.CANCELLED
    service.check_integrity()


def test_who_cannot_save_is_fenced_at_its_last_bundle(service: Service) -> None:
    service.submit(specs(1, steps=50))
    service.tick(8)
    service.launched[0].is_hung = service.launched[1].is_hung = True
    service.control.pause([])
    service.tick(2)
    assert not service.control.is_at_rest([])
    assert service.placement.commands.fence_paused() == ["job-0"]
    assert service.states() == {"job-0": JobState.PAUSED}
    service.check_integrity()
