"""Which bundles stay, and what a damaged one costs."""

from __future__ import annotations

from pathlib import Path

from mlora_ray.types import JobState
from tests.fakes.service import Service, specs


def test_all_succeed_and_only_two_bundles_are_kept(service: Service) -> None:
    service.submit(specs(5))
    service.run()
    service.tick()
    assert set(service.states().values()) == {JobState.SUCCEEDED}
    service.check_integrity()
    for record in service.database.jobs():
        kept = sorted(p.name for p in (Path(service.settings.bundle_root) / record.spec.name).iterdir())
        assert kept == ["step-00000009-epoch-1.safetensors", "step-00000010-epoch-1.safetensors"]
    status = service.control.status()
    assert (status.phase, status.share_done) == ("done", 1.0)
    assert status.done_tokens == status.total_tokens == 5 * 80


def test_a_damaged_bundle_costs_steps_not_the_job(service: Service) -> None:
    service.submit(specs(2))
    service.tick(8)
    first = service.database.jobs()[0]
    assert first.step == 6
    Path(first.bundle_uri).write_bytes(Path(first.bundle_uri).read_bytes()[:-3])
    for host in service.launched:
        host.is_dead = True
    service.run()
    rolled = [e.detail for e in service.database.events() if e.kind == "rolled_back"]
    assert rolled
    assert rolled[0].startswith("step=3 ")
    service.check_integrity()


def test_storage_that_is_away_rolls_nobody_back(service: Service) -> None:
    service.submit(specs(2, steps=30))
    service.tick(8)
    steps = {r.spec.name: r.step for r in service.database.jobs()}
    there = [p for p in Path(service.settings.layout.folder).rglob("*") if p.is_file() and p.name != "decisions.jsonl"]
    for path in there:
        path.rename(path.with_name(f"{path.name}.away"))
    for host in service.launched:
        host.is_dead = True
    service.tick(5)
    for path in there:
        path.with_name(f"{path.name}.away").rename(path)
    assert all(r.step >= steps[r.spec.name] > 0 for r in service.database.jobs())
    service.run()
    assert "rolled_back" not in service.kinds()
    service.check_integrity()
