"""A host between ticks: orders, steps, what it reports, whose jobs it drops."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mlora_ray.clock import VirtualClock
from mlora_ray.engine.base import Base
from mlora_ray.errors import MloraError
from mlora_ray.store.bundles import read_bundle
from mlora_ray.types import (
    Ack,
    Assignment,
)
from tests.conftest import real_spec
from tests.host.one_host import Host


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


def test_a_new_epoch_takes_over_from_its_own_bundle(host: Host) -> None:
    spec = real_spec(host.folder, "a")
    host.assign(spec)
    host.advance(lambda: bool(host.bundles))
    host.assign(spec, epoch=5, bundle_uri=host.bundles[0].bundle_uri)
    host.assign(spec, epoch=4)
    host.advance()
    assert host.final("a").epoch == 5


def test_a_training_thread_that_stands_still_shows(host: Host, clock: VirtualClock) -> None:
    host.hosting.advance()
    assert host.hosting.report().stalled_s == 0.0
    clock.advance(90.0)
    assert host.hosting.report().stalled_s == 90.0
    host.hosting.advance()
    assert host.hosting.report().stalled_s == 0.0


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
