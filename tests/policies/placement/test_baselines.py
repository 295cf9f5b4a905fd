"""What distinguishes each baseline, on examples small enough to check by hand."""

from __future__ import annotations

import pytest

from mlora_ray.policies.contract import load_policy
from mlora_ray.types import AdapterView, JobState
from tests.builders.views import STEPS, adapter, decide, hosts, view


def test_independent_gives_each_its_own_device_and_the_head_blocks() -> None:
    policy = load_policy("independent", STEPS)
    first, wide, last = adapter("a", submitted_s=1), adapter("w", submitted_s=2, width=2), adapter("z", submitted_s=3)
    assert decide(policy, view(hosts(2), last, wide, first)) == {"a": ("h0",)}
    assert decide(policy, view(hosts(3), last, wide, first)) == {"a": ("h0",), "w": ("h1", "h2")}
    assert decide(policy, view(hosts(2), adapter("on", host="h0"), first)) == {"a": ("h1",)}


def test_the_queue_of_one_base_does_not_block_another() -> None:
    held = view((*hosts(1), *hosts(1, id="other", base="c")), adapter("w", width=2), adapter("c", base="c"))
    assert decide(load_policy("independent"), held) == {"c": ("other",)}


def test_backfill_lets_short_ones_pass_the_head_but_never_delays_it() -> None:
    """h0 is busy for 100 s; the head needs both devices then. 90 s fit on h1 before, 110 s do not."""
    policy = load_policy("backfill", STEPS)
    running, head = adapter("on", left_s=100, host="h0"), adapter("w", submitted_s=1, width=2)
    short, long = adapter("s", left_s=90, submitted_s=2), adapter("l", left_s=110, submitted_s=2)
    assert decide(policy, view(hosts(2), running, head, short)) == {"s": ("h1",)}
    assert decide(policy, view(hosts(2), running, head, long)) == {}
    assert decide(policy, view(hosts(3), running, head, long)) == {"w": ("h1", "h2")}
    unknown = adapter("u", submitted_s=2, tokens_total=None)
    assert decide(policy, view(hosts(2), running, head, unknown)) == {}


def test_srpt_preempts_for_less_remaining_work() -> None:
    policy = load_policy("srpt", STEPS)
    running = adapter("on", left_s=500, host="h0")
    assert decide(policy, view(hosts(1), running, adapter("s", left_s=400))) == {"on": (), "s": ("h0",)}
    assert decide(policy, view(hosts(1), running, adapter("l", left_s=600))) == {}
    wide = adapter("w", left_s=100, width=4)
    assert decide(policy, view(hosts(2), wide)) == {"w": ("h0", "h1")}, "fewer devices than it asks for"


def test_las_prefers_who_had_least_in_quanta_and_knows_no_size() -> None:
    policy = load_policy("las", STEPS)
    on = adapter("on", left_s=10, host="h0", done_s=650)
    assert decide(policy, view(hosts(1), on, adapter("new", left_s=99_999))) == {"on": (), "new": ("h0",)}
    early = adapter("on", left_s=99_999, host="h0", done_s=550)
    assert decide(policy, view(hosts(1), early, adapter("new", left_s=10, submitted_s=5))) == {}, "the same quantum"


@pytest.mark.parametrize("name", ["timeslice", "mlora-trivial"])
def test_slots_hold_four_a_device(name: str) -> None:
    policy = load_policy(name, STEPS)
    queue = [adapter(f"a{at}", submitted_s=at) for at in range(9)]
    placed = decide(policy, view(hosts(2), *queue))
    assert [placed.get(f"a{at}", ()) for at in range(8)] == [("h0",), ("h1",)] * 4
    assert "a8" not in placed


def test_mlora_picks_whom_to_pad_together() -> None:
    """Rows of 100, 900, 110 and 120 tokens in that order, and three free slots beside one of 100."""

    def chosen(name: str) -> list[str]:
        lengths = {"a": 100.0, "b": 900.0, "c": 110.0, "d": 120.0}
        queue = [adapter(n, submitted_s=at, row_tokens=row) for at, (n, row) in enumerate(lengths.items())]
        inside = [adapter(f"in{at}", host="h0", row_tokens=100.0) for at in range(2)]
        return sorted(decide(load_policy(name), view(hosts(1), *inside, *queue)))

    assert chosen("mlora-trivial") == ["a", "b"]
    assert chosen("mlora-optimal-fit") == ["a", "c"]
    assert chosen("mlora-fast-fit") == ["a", "c"]
    alone = adapter("x", row_tokens=900.0)
    beside = adapter("in", host="h0", row_tokens=100.0)
    assert decide(load_policy("mlora-fast-fit"), view(hosts(1), beside, alone)) == {"x": ("h0",)}, "no slot stays empty"


def test_tlora_merges_up_to_the_slowdown_bound() -> None:
    """Alone 51 ms for 500 tokens. Two together: 102 ms, twice as slow; three of 100 tokens: 53 ms."""
    two = [adapter("on", host="h0"), adapter("new")]
    assert decide(load_policy("tlora-1.3", STEPS), view(hosts(1), *two)) == {}
    big = adapter("on", host="h0", step_tokens=450)
    small = [adapter(f"s{at}", step_tokens=100, submitted_s=at) for at in range(6)]
    tight = decide(load_policy("tlora-1.3", STEPS), view(hosts(1), big, *small))
    loose = decide(load_policy("tlora-2.0", STEPS), view(hosts(1), big, *small))
    assert len(tight) == 1, "450 + 100 tokens take 57 ms, 450 + 200 take 68 ms, past 1.3 times 51 ms"
    assert len(loose) == 5, "450 + 500 tokens of six take 101 ms, 450 + 600 of seven 112 ms, past 2 times 51 ms"


def test_tlora_keeps_who_runs_and_spreads_to_idle_devices() -> None:
    policy = load_policy("tlora-2.0", STEPS)
    running = adapter("on", left_s=9999, host="h0")
    assert decide(policy, view(hosts(1), running, adapter("s", left_s=1))) == {}
    pair = [adapter("a", host="h0", step_tokens=300), adapter("b", host="h0", step_tokens=300)]
    assert decide(policy, view(hosts(2), *pair)) == {"a": ("h1",)}
    assert decide(policy, view(hosts(3), adapter("w", width=3, host="h0"))) == {"w": ("h0", "h1", "h2")}


def test_tlora_serves_the_most_urgent_first() -> None:
    """Both waited 1,000 s: that is ten times the short one's own time, and little to the long one."""
    short, long = adapter("s", left_s=100), adapter("l", left_s=10_000)
    assert decide(load_policy("tlora", STEPS), view(hosts(1), long, short))["s"] == ("h0",)


ALL = ["independent", "backfill", "srpt", "las", "timeslice", "mlora-trivial", "mlora-optimal-fit", "mlora-fast-fit"]
ALL += ["tlora-1.3", "tlora-2.0", "rate-remaining"]


@pytest.mark.parametrize("name", ALL)
def test_nobody_touches_what_is_not_theirs(name: str) -> None:
    """Paused by its owner, on its way, ended, of another base; and a host that drains takes nobody in."""
    policy = load_policy(name, STEPS)
    untouchable: list[AdapterView] = [
        adapter("paused", state=JobState.PAUSED),
        adapter("moving", host="h0", state=JobState.MIGRATING),
        adapter("ended", state=JobState.SUCCEEDED),
        adapter("other", base="c"),
    ]
    assert decide(policy, view(hosts(2), *untouchable)) == {}
    assert decide(policy, view(hosts(2, state="draining"), adapter("new"))) == {}


@pytest.mark.parametrize("name", ALL)
def test_one_waiting_adapter_gets_the_free_device(name: str) -> None:
    policy = load_policy(name, STEPS)
    assert decide(policy, view(hosts(2), adapter("on", host="h0"), adapter("new"))) == {"new": ("h1",)}
