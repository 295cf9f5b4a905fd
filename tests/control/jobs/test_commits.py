"""What hosts report for good: failures, and metrics files that agree with the database."""

from __future__ import annotations

from pathlib import Path

from mlora_ray.types import JobState
from tests.fakes.service import Service, specs


def test_one_failure_is_its_own(service: Service) -> None:
    service.submit(specs(4))
    service.tick(3)
    for host in service.launched:
        host.fail_after["job-2"] = 4
    service.run()
    assert service.states().pop("job-2") is JobState.FAILED
    assert list(service.states().values()).count(JobState.SUCCEEDED) == 3
    assert service.control.status(("job-2",)).jobs[0].error == "loss is nan"
    service.check_integrity()


def test_metrics_that_a_dying_placement_did_not_write_are_written_by_the_next(service: Service) -> None:
    service.submit(specs(3))
    service.tick(6)
    root = Path(service.settings.storage)
    whole, torn, absent = (root / f"job-{i}" / "metrics.jsonl" for i in range(3))
    before = whole.read_text()
    torn.write_text(torn.read_text()[:-5])
    absent.unlink()
    service.restart()
    service.tick()
    assert whole.read_text().startswith(before)
    service.check_integrity()
    service.run()
    service.check_integrity()
