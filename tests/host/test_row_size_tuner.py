"""How many tokens a packed row holds, by what rows took."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlora_ray.clock import VirtualClock
from mlora_ray.engine import engine as engine_module
from mlora_ray.engine.base import Base
from mlora_ray.engine.executor import Raised
from mlora_ray.host.row_size_tuner import WARM_ROWS
from mlora_ray.policies.models.step_time_fit import fitted
from mlora_ray.types import (
    JobSpec,
)
from tests.conftest import real_spec
from tests.host.one_host import Host


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


def no_room_above(num_tokens: int) -> Callable[..., Any]:
    run = engine_module.try_row

    def try_row(base: Base, requests: list[Any]) -> Any:
        if sum(request.num_tokens for request in requests) > num_tokens:
            return Raised("OutOfMemoryError: no room", is_memory=True)
        return run(base, requests)

    return try_row


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
