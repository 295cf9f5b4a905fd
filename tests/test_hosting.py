"""A host between ticks, on the tiny base: saving, resuming, evaluating, and storage that fails."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mlora_ray.clock import VirtualClock
from mlora_ray.engine.base import Base, load_base
from mlora_ray.engine.engine import Engine
from mlora_ray.hosting import MAX_UNACKNOWLEDGED_S, Hosting
from mlora_ray.store.bundles import read_bundle
from mlora_ray.types import (
    Ack,
    Assignment,
    BundleReport,
    CrossRequest,
    FailureReport,
    HostReport,
    JobSpec,
    Release,
)
from tests.conftest import real_spec


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(real_spec(tmp_path_factory.mktemp("rows"), "any").base, threads=1)


class Host:
    """A hosting with its reports gathered and acknowledged as placement would."""

    def __init__(self, folder: Path, base: Base, clock: VirtualClock) -> None:
        self.folder, self.clock = folder, clock
        engine = Engine(base, memory_limit_bytes=4 << 30, page_dir=str(folder / "pages"))
        self.hosting = Hosting("h-0", engine, str(folder / "bundles"), clock.elapsed_s)
        self.bundles: list[BundleReport] = []
        self.failures: list[FailureReport] = []

    def assign(self, spec: JobSpec, epoch: int = 1, bundle_uri: str = "") -> None:
        out_uri = str(self.folder / "out" / spec.name)
        self.hosting.assign((Assignment(spec=spec, epoch=epoch, bundle_uri=bundle_uri, out_uri=out_uri),))

    def advance(self, until: Callable[[], bool] = lambda: False, max_calls: int = 200) -> None:
        """Advance until there is nothing to do, or `until` holds; time passes a second a call."""
        idle = 0
        for _ in range(max_calls):
            idle = 0 if self.hosting.advance() else idle + 1
            self.clock.advance(1.0)
            self.take()
            if until() or idle > 40:
                return
        raise AssertionError("still busy")

    def take(self) -> HostReport:
        report = self.hosting.report()
        self.bundles += report.bundles
        self.failures += report.failures
        acks = [Ack(b.job, b.epoch, b.step) for b in report.bundles]
        self.hosting.acknowledge((*acks, *(Ack(f.job, f.epoch, f.step, True) for f in report.failures)))
        return report

    def final(self, job: str) -> BundleReport:
        return next(b for b in self.bundles if b.job == job and b.is_final)


@pytest.fixture
def host(tmp_path: Path, base: Base, clock: VirtualClock) -> Host:
    return Host(tmp_path, base, clock)


def test_a_job_leaves_its_files_bundles_and_steps(host: Host) -> None:
    spec = real_spec(host.folder, "a", eval_rows=True, eval_steps=3)
    host.assign(spec)
    host.advance()
    assert [(b.step, b.is_final) for b in host.bundles] == [(2, False), (4, False), (6, True)]
    steps = [s for b in host.bundles for s in b.steps]
    assert [s.step for s in steps] == [1, 2, 3, 4, 5, 6]
    assert [s.step for s in steps if s.eval_loss is not None] == [3, 6]
    out = host.folder / "out" / "a"
    names = {"adapter_config.json", "adapter_model.safetensors", "eval.json", "job.json"}
    assert {p.name for p in out.iterdir()} == names
    losses = json.loads((out / "eval.json").read_text())
    assert losses["adapter"]["loss"] == steps[-1].eval_loss
    job = json.loads((out / "job.json").read_text())
    assert job["weights_sha256"] == host.final("a").weights_sha256
    assert job["spec"]["train"]["max_steps"] == 6
    assert (job["device"], job["threads"]) == ("cpu", 1)
    assert host.hosting.report().progress == ()


def test_neighbours_and_resumption_change_no_bit(host: Host, tmp_path: Path, base: Base, clock: VirtualClock) -> None:
    specs = [real_spec(host.folder, name) for name in ("a", "b", "c")]
    for spec in specs:
        host.assign(spec)
    host.advance()
    alone = Host(tmp_path / "alone", base, clock)
    alone.assign(specs[0])
    alone.advance(lambda: any(b.step == 4 for b in alone.bundles))
    later = Host(tmp_path / "later", base, clock)
    saved = next(b for b in alone.bundles if b.step == 4)
    later.assign(specs[0], epoch=2, bundle_uri=saved.bundle_uri)
    later.advance()
    assert later.final("a").weights_sha256 == host.final("a").weights_sha256
    assert later.final("a").sha256 == host.final("a").sha256
    plain = [dataclasses.replace(s, seconds=0.0) for b in later.bundles for s in b.steps]
    assert plain == [dataclasses.replace(s, seconds=0.0) for s in host.final("a").steps]
    assert (
        read_bundle(later.final("a").bundle_uri)[1]["num_tokens"]
        == (read_bundle(host.final("a").bundle_uri)[1]["num_tokens"])
    )


def test_an_assignment_shows_at_once_and_counts_once(host: Host) -> None:
    spec = real_spec(host.folder, "a")
    host.assign(spec)
    assert [(p.job, p.epoch) for p in host.hosting.report().progress] == [("a", 1)]
    host.assign(spec)
    host.advance()
    assert [b.step for b in host.bundles] == [2, 4, 6]


def test_reports_stay_until_acknowledged(host: Host) -> None:
    host.assign(real_spec(host.folder, "a"))
    for _ in range(20):
        host.hosting.advance()
    first, second = host.hosting.report(), host.hosting.report()
    assert first.bundles == second.bundles
    assert [b.step for b in first.bundles] == [2, 4, 6]
    host.hosting.acknowledge((Ack("a", 1, 2), Ack("a", 1, 6, True)))
    assert [b.step for b in host.hosting.report().bundles] == [4, 6]


def test_a_silent_placement_stops_the_running_ahead(host: Host) -> None:
    host.assign(real_spec(host.folder, "a", max_steps=50, save_steps=1))
    while not host.hosting.report().bundles:
        host.hosting.advance()
    host.clock.advance(MAX_UNACKNOWLEDGED_S + 1)
    assert not host.hosting.advance()
    host.take()
    assert host.hosting.advance()


def test_release_saves_and_lets_go(host: Host) -> None:
    host.assign(real_spec(host.folder, "a", max_steps=50, save_steps=0))
    host.advance(lambda: any(p.step >= 3 for p in host.hosting.report().progress))
    host.hosting.release((Release("a", 7),))
    host.hosting.advance()
    assert host.hosting.report().progress
    host.hosting.release((Release("a", 1),))
    host.advance()
    assert len(host.bundles) == 1
    assert len(host.bundles[0].steps) == host.bundles[0].step >= 3
    assert host.hosting.report().progress == ()


def test_a_new_epoch_takes_over_from_its_own_bundle(host: Host) -> None:
    spec = real_spec(host.folder, "a")
    host.assign(spec)
    host.advance(lambda: bool(host.bundles))
    host.assign(spec, epoch=5, bundle_uri=host.bundles[0].bundle_uri)
    host.assign(spec, epoch=4)
    host.advance()
    assert host.final("a").epoch == 5


@pytest.mark.parametrize("what", ["rows are gone", "rows are others", "bundle is torn", "bundle of another"])
def test_what_cannot_be_read_fails_that_job_alone(host: Host, what: str) -> None:
    good, bad = real_spec(host.folder, "good"), real_spec(host.folder, "bad")
    uri = ""
    if what == "rows are gone":
        bad = dataclasses.replace(bad, train_rows=dataclasses.replace(bad.train_rows, uri=str(host.folder / "none")))
    elif what == "rows are others":
        bad = dataclasses.replace(bad, train_rows=dataclasses.replace(bad.train_rows, uri=good.train_rows.uri))
    else:
        host.assign(real_spec(host.folder, "donor"))
        host.advance()
        uri = host.final("donor").bundle_uri
        if what == "bundle is torn":
            Path(uri).write_bytes(Path(uri).read_bytes()[:-1])
    host.assign(bad, bundle_uri=uri)
    host.assign(good)
    host.advance()
    assert [f.job for f in host.failures] == ["bad"]
    assert host.final("good")


def test_an_exploding_neighbour_changes_nothing(host: Host, tmp_path: Path, base: Base, clock: VirtualClock) -> None:
    quiet = Host(tmp_path / "quiet", base, clock)
    quiet.assign(real_spec(host.folder, "a"))
    quiet.advance()
    host.assign(real_spec(host.folder, "a"))
    host.assign(real_spec(host.folder, "wild", learning_rate=1e30, max_grad_norm=0.0))
    host.advance()
    assert [f.job for f in host.failures] == ["wild"]
    assert "last good bundle is step" in host.failures[0].error
    assert host.final("a").weights_sha256 == quiet.final("a").weights_sha256


def test_storage_that_fails_for_one_job_stops_it_alone(host: Host) -> None:
    (host.folder / "bundles").mkdir()
    (host.folder / "bundles" / "bad").write_text("a file where the folder should be")
    host.assign(real_spec(host.folder, "bad"))
    host.assign(real_spec(host.folder, "good"))
    host.advance()
    assert host.final("good").step == 6
    assert [f.job for f in host.failures] == ["bad"]
    assert "storage, 5 attempts" in host.failures[0].error
    assert "it has no bundle" in host.failures[0].error
    assert "bad" in host.hosting.report().warning


def test_storage_that_comes_back_costs_nothing(host: Host) -> None:
    blocked = host.folder / "bundles" / "a"
    blocked.parent.mkdir()
    blocked.write_text("in the way")
    host.assign(real_spec(host.folder, "a"))
    host.advance(lambda: "next attempt" in host.hosting.report().warning)
    blocked.unlink()
    host.advance()
    assert [s.step for b in host.bundles for s in b.steps] == [1, 2, 3, 4, 5, 6]
    assert host.failures == []


def test_outputs_that_cannot_be_written_keep_the_last_bundle(host: Host) -> None:
    (host.folder / "out").write_text("in the way")
    host.assign(real_spec(host.folder, "a"))
    host.advance()
    assert [b.step for b in host.bundles] == [2, 4, 6]
    assert not any(b.is_final for b in host.bundles)
    assert "its last good bundle is step 6" in host.failures[0].error
    (host.folder / "out").unlink()
    host.assign(real_spec(host.folder, "a"), epoch=2, bundle_uri=host.bundles[-1].bundle_uri)
    host.advance()
    assert host.final("a").steps == ()


def test_save_all_and_cross_evaluation_run_between_steps(host: Host) -> None:
    specs = [real_spec(host.folder, name, eval_rows=True) for name in ("a", "b")]
    long = real_spec(host.folder, "long", max_steps=500, save_steps=0)
    for spec in (*specs, long):
        host.assign(spec)
    host.advance(lambda: sum(b.is_final for b in host.bundles) == 2)
    saved = host.hosting.call(host.hosting.save_all)
    requests = [CrossRequest(s, host.final(s.name).bundle_uri) for s in specs]
    losses = host.hosting.call(lambda: host.hosting.cross_evaluate(requests, 32))
    host.hosting.advance()
    saved.result(0)
    host.take()
    assert host.bundles[-1].job == "long"
    matrix = losses.result(0)
    for i, spec in enumerate(specs):
        held = json.loads((host.folder / "out" / spec.name / "eval.json").read_text())
        assert matrix.loss[i][i] == held["adapter"]["loss"]
        assert matrix.base_loss[i] == held["base"]["loss"]
