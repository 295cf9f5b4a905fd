"""A host between ticks, on the tiny base: saving, resuming, evaluating, and storage that fails."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from mlora_ray.clock import VirtualClock
from mlora_ray.engine import engine as engine_module
from mlora_ray.engine.base import Base
from mlora_ray.engine.base_loading import load_base
from mlora_ray.engine.engine import Engine
from mlora_ray.engine.executor import Raised
from mlora_ray.errors import MloraError
from mlora_ray.host.row_size_tuner import WARM_ROWS
from mlora_ray.host.runtime import HostRuntime
from mlora_ray.policies.models.step_time_fit import fitted
from mlora_ray.store.bundles import read_bundle
from mlora_ray.types import (
    Ack,
    Assignment,
    BundleReport,
    CrossRequest,
    FailureReport,
    HostReport,
    HostSettings,
    JobSpec,
    Release,
)
from tests.conftest import real_spec


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(real_spec(tmp_path_factory.mktemp("rows"), "any").base, threads=1)


class Inline(Executor):
    """Storage that is waited for at once, so that a test's steps and saves have one order."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it travels in the future
            future.set_exception(error)
        return future


class Host:
    """A hosting with its reports gathered and acknowledged as placement would."""

    def __init__(self, folder: Path, base: Base, clock: VirtualClock, row_tokens: int = 0, **settings: int) -> None:
        self.folder, self.clock = folder, clock
        pages = str(folder / "pages")
        self.engine = Engine(base, memory_limit_bytes=4 << 30, page_dir=pages, token_budget=row_tokens)
        where = {"base": base.spec, "bundle_root": str(folder / "bundles"), "page_dir": ""}
        self.settings = HostSettings(id="h-0", **where, **settings)
        self.hosting = HostRuntime(self.settings, self.engine, clock, Inline())
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


def test_nobody_runs_ahead_of_what_is_committed_by_more_than_the_bound(
    tmp_path: Path, base: Base, clock: VirtualClock
) -> None:
    host = Host(tmp_path, base, clock, max_uncommitted_steps=7)
    host.assign(real_spec(tmp_path, "a", max_steps=50, save_steps=3))
    for _ in range(100):
        host.hosting.advance()
    assert not host.hosting.advance()
    assert [s.step for b in host.hosting.report().bundles for s in b.steps] == [1, 2, 3, 4, 5, 6, 7]
    host.advance()
    assert host.final("a").step == 50


def test_storage_that_is_away_for_long_pauses_and_fails_nobody(tmp_path: Path, base: Base, clock: VirtualClock) -> None:
    host = Host(tmp_path, base, clock, save_attempts=0, max_uncommitted_steps=20)
    blocked = tmp_path / "bundles"
    blocked.write_text("in the way")
    host.assign(real_spec(tmp_path, "a", max_steps=50, save_steps=3))
    for _ in range(200):
        host.hosting.advance()
        clock.advance(1.0)
    assert (host.take().progress[0].step, host.failures) == (20, [])
    blocked.unlink()
    host.advance()
    assert [s.step for b in host.bundles for s in b.steps] == list(range(1, 51))


def test_a_state_that_moves_brings_its_uncommitted_steps_and_changes_no_bit(
    host: Host, tmp_path: Path, base: Base, clock: VirtualClock
) -> None:
    """Acknowledged steps stay behind; those in a bundle that nobody committed come along."""
    spec = real_spec(host.folder, "a", max_steps=20, save_steps=4)
    quiet, target = Host(tmp_path / "quiet", base, clock), Host(tmp_path / "target", base, clock)
    quiet.assign(spec)
    quiet.advance()
    host.assign(spec)
    host.advance(lambda: len(host.bundles) == 1)
    while host.hosting.report().progress[0].step < 10:
        host.hosting.advance()
        clock.advance(1.0)
    handed = host.hosting.call(lambda: host.hosting.release_state("a", 1))
    host.hosting.advance()
    moved = handed.result(0)
    assert [s.step for s in moved.steps] == list(range(5, moved.step + 1))
    out_uri = str(target.folder / "out" / "a")
    target.hosting.receive(
        Assignment(spec=spec, epoch=2, bundle_uri=host.bundles[0].bundle_uri, out_uri=out_uri), moved
    )
    target.advance()
    assert target.final("a").weights_sha256 == quiet.final("a").weights_sha256
    assert [s.step for b in target.bundles for s in b.steps] == list(range(5, 21))
    host.advance()
    assert host.hosting.report().progress == ()
    gone = host.hosting.call(lambda: host.hosting.release_state("a", 1))
    host.hosting.advance()
    with pytest.raises(MloraError, match="a of epoch 1 is not on h-0"):
        gone.result(0)


def test_what_placement_does_not_own_to_it_is_let_go_when_said_twice(host: Host) -> None:
    for name in ("mine", "fenced"):
        host.assign(real_spec(host.folder, name, max_steps=500, save_steps=0))
    host.advance(lambda: len(host.hosting.report().progress) == 2)
    host.hosting.set_ownership(frozenset({("mine", 1)}))
    host.hosting.advance()
    host.clock.advance(1.0)
    assert len(host.hosting.report().progress) == 2
    host.hosting.set_ownership(frozenset({("mine", 1)}))
    host.hosting.advance()
    assert [p.job for p in host.hosting.report().progress] == ["mine"]
    assert host.bundles == []


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
    assert [(f.job, f.is_unread) for f in host.failures] == [("bad", True)]
    assert host.final("good")


def test_an_adapter_that_finds_no_room_beside_others_is_tried_again_and_fails_only_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    host.assign(real_spec(host.folder, "one", max_steps=50))
    host.advance(lambda: any(p.step > 0 for p in host.hosting.report().progress))
    monkeypatch.setattr(host.engine, "admit", no_room)
    host.assign(real_spec(host.folder, "two"))
    host.advance(lambda: bool(host.failures))
    assert [(f.job, f.is_unread) for f in host.failures] == [("two", True)]
    monkeypatch.undo()
    host.advance()
    monkeypatch.setattr(host.engine, "admit", no_room)
    host.assign(real_spec(host.folder, "three"))
    host.advance(lambda: len(host.failures) == 2)
    assert [(f.job, f.is_unread) for f in host.failures[1:]] == [("three", False)]


def test_a_training_thread_that_stands_still_shows(host: Host, clock: VirtualClock) -> None:
    host.hosting.advance()
    assert host.hosting.report().stalled_s == 0.0
    clock.advance(90.0)
    assert host.hosting.report().stalled_s == 90.0
    host.hosting.advance()
    assert host.hosting.report().stalled_s == 0.0


def made_machine(host: Host, cliff: int) -> list[int]:
    """A row costs 0.1 s and 1 ms a token, twice as much past `cliff` tokens. Answers the sizes of the rows."""
    step, rooms = host.engine.step, []

    def timed() -> Any:
        outcomes = step()
        if row := host.engine.last_row:
            rooms.append(row.room)
            host.clock.advance((0.1 + 1e-3 * row.num_tokens) * (2.0 if row.num_tokens > cliff else 1.0))
        return outcomes

    host.engine.step = timed  # type: ignore[method-assign]
    return rooms


def train_eight(host: Host, max_steps: int = 24) -> list[JobSpec]:
    """Jobs of about 90 tokens a step."""
    specs = [real_spec(host.folder, f"job-{at}", max_steps=max_steps, batch_size=8, save_steps=0) for at in range(8)]
    for spec in specs:
        host.assign(spec)
    host.advance(lambda: len(host.bundles) == len(specs), max_calls=1000)
    return specs


def test_the_size_of_rows_is_found_on_the_run_and_changes_no_bit(
    tmp_path: Path, base: Base, clock: VirtualClock
) -> None:
    host, alone = Host(tmp_path, base, clock, row_tokens=512), Host(tmp_path / "alone", base, clock)
    rooms = made_machine(host, cliff=300)
    specs = train_eight(host)
    report = host.take()
    assert set(rooms) == {256, 512}
    assert (report.row_tokens, report.token_budget) == (256, 512)
    assert re.fullmatch(r"in rows of 512 a token takes \d\d% more", report.row_why)
    assert set(rooms[-5:]) == {256}
    alone.assign(specs[0])
    alone.advance()
    assert alone.final("job-0").weights_sha256 == host.final("job-0").weights_sha256


def test_rows_of_a_size_that_was_set_stay(tmp_path: Path, base: Base, clock: VirtualClock) -> None:
    host = Host(tmp_path, base, clock, row_tokens=512, token_budget=512)
    rooms = made_machine(host, cliff=300)
    train_eight(host)
    assert set(rooms) == {512}
    assert (host.take().row_tokens, host.take().row_why) == (512, "as set by token_budget")


def test_rows_that_do_not_fit_shrink_at_once_and_stay_so(
    tmp_path: Path, base: Base, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, base, clock, row_tokens=512)
    rooms = made_machine(host, cliff=10_000)
    monkeypatch.setattr(engine_module, "try_row", no_room_above(300))
    train_eight(host, max_steps=10)
    assert set(rooms) == {256}
    assert (host.take().row_tokens, host.take().row_why) == (256, "what memory allows since it was short")


def test_a_host_tells_what_its_rows_took(host: Host) -> None:
    rooms = made_machine(host, cliff=10_000)
    for at in range(3):
        host.assign(real_spec(host.folder, f"job-{at}", max_steps=30))
    host.advance()
    rows = host.take().rows
    assert rows.num_rows == len(rooms) - WARM_ROWS
    assert rows.rank_tokens == 4 * rows.tokens
    assert rows.steps == pytest.approx(3 * (30 - WARM_ROWS))
    assert rows.seconds == pytest.approx(0.1 * rows.num_rows + 1e-3 * rows.tokens)
    says = sum(x * each for x, each in zip(fitted(rows), (rows.num_rows, rows.tokens, rows.steps), strict=True))
    assert says == pytest.approx(rows.seconds, rel=1e-3)


def no_room_above(num_tokens: int) -> Callable[..., Any]:
    run = engine_module.try_row

    def try_row(base: Base, requests: list[Any]) -> Any:
        if sum(request.num_tokens for request in requests) > num_tokens:
            return Raised("OutOfMemoryError: no room", is_memory=True)
        return run(base, requests)

    return try_row


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


def test_slow_storage_holds_up_no_step(tmp_path: Path, base: Base, clock: VirtualClock) -> None:
    """While one save is waited for, training goes on; what has moved or failed meanwhile is saved once more."""
    may_write, quiet = threading.Event(), Host(tmp_path / "quiet", base, clock)
    specs = [real_spec(tmp_path, name, max_steps=30, save_steps=4) for name in ("a", "b")]
    for spec in specs:
        quiet.assign(spec)
    quiet.advance()
    host = Host(tmp_path, base, clock)

    class Slow(ThreadPoolExecutor):
        def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return super().submit(lambda: (may_write.wait(60), function(*args, **kwargs))[1])

    host.hosting = HostRuntime(host.settings, host.engine, clock, Slow(2))
    for spec in specs:
        host.assign(spec)
    for _ in range(40):
        host.hosting.advance()
        clock.advance(1.0)
    assert {p.step for p in host.hosting.report().progress} == {30}
    assert host.hosting.report().bundles == ()
    may_write.set()
    ends_s = time.monotonic() + 60
    while sum(b.is_final for b in host.bundles) < 2 and time.monotonic() < ends_s:
        host.hosting.advance()
        host.take()
        host.hosting.wait(0.1)
    for name in ("a", "b"):
        assert host.final(name).weights_sha256 == quiet.final(name).weights_sha256
        assert [s.step for b in host.bundles if b.job == name for s in b.steps] == list(range(1, 31))


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


def test_cross_evaluation_runs_between_steps(host: Host) -> None:
    specs = [real_spec(host.folder, name, eval_rows=True) for name in ("a", "b")]
    long = real_spec(host.folder, "long", max_steps=500, save_steps=0)
    for spec in (*specs, long):
        host.assign(spec)
    host.advance(lambda: sum(b.is_final for b in host.bundles) == 2)
    requests = [CrossRequest(s, host.final(s.name).bundle_uri) for s in specs]
    losses = host.hosting.call(lambda: host.hosting.cross_evaluate(requests, 32))
    host.hosting.advance()
    matrix = losses.result(0)
    for i, spec in enumerate(specs):
        held = json.loads((host.folder / "out" / spec.name / "eval.json").read_text())
        assert matrix.loss[i][i] == held["adapter"]["loss"]
        assert matrix.base_loss[i] == held["base"]["loss"]
