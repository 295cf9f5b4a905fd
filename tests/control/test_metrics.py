"""Metrics without Ray: what is counted once, what is shown, what is refused, what it costs."""

from __future__ import annotations

import ast
import re
import time
from collections import defaultdict
from pathlib import Path

import pytest

from mlora_ray.actors.ray_metrics import ray_instrument
from mlora_ray.control.metric_table import METRICS, MetricSpec, Write
from mlora_ray.control.metrics import Metrics
from mlora_ray.types import JobState
from mlora_ray.types.status import HostStatus, JobStatus, RunStatus

ROOT = Path(__file__).resolve().parents[2]
Key = tuple[tuple[str, str], ...]


class Board:
    """What Prometheus would hold: counters add up, gauges keep the last, histograms keep all."""

    def __init__(self) -> None:
        self.values: dict[str, dict[Key, float]] = defaultdict(dict)
        self.times: dict[str, list[float]] = defaultdict(list)
        self.is_broken = False

    def instrument(self, spec: MetricSpec, service: str) -> Write:
        def write(value: float, tags: dict[str, str]) -> None:
            if self.is_broken:
                raise RuntimeError("no agent")
            assert set(tags) == set(spec.tags), spec.name
            assert all(isinstance(tag, str) for tag in tags.values()), spec.name
            key = tuple(sorted(tags.items()))
            if spec.kind == "histogram":
                self.times[spec.name].append(value)
            elif spec.kind == "counter":
                assert value > 0, spec.name
                self.values[spec.name][key] = self.values[spec.name].get(key, 0.0) + value
            else:
                self.values[spec.name][key] = value

        return write

    def get(self, name: str, **tags: str) -> float | None:
        return self.values[name].get(tuple(sorted(tags.items())))


def make_status(*jobs: JobStatus) -> RunStatus:
    return RunStatus(jobs=jobs, tokens_per_s=7.0, total_tokens=100, done_tokens=40)


def make_job(name: str = "a", step: int = 0, state: JobState = JobState.TRAINING) -> JobStatus:
    return JobStatus(name=name, state=state, step=step, total_steps=10, num_tokens=step * 8, loss=0.5)


def make_host(name: str = "cpu-0", state: str = "alive") -> HostStatus:
    rows = {"row_tokens": 768, "step_time_drift": 1.25} if state == "alive" else {}
    held = {"memory_bytes": 5, "tokens_per_s": 2.0, **rows}
    return HostStatus(id=name, host_type="cpu", base="tiny:float32", state=state, **held)  # type: ignore[arg-type]


def test_a_hosts_rows_are_shown_once_they_are_known() -> None:
    watched = Watched()
    watched.tick(hosts=(make_host(), make_host("cpu-1", "starting")), seconds=2)
    assert watched.board.get("mlora_host_row_tokens", host="cpu-0", host_type="cpu") == 768
    assert watched.board.get("mlora_host_drift_ratio", host="cpu-0", host_type="cpu") == 1.25
    assert len(watched.board.values["mlora_host_drift_ratio"]) == 1


class Watched:
    """A `Metrics` on a board of its own; `tick` observes at whole seconds until the details are all written."""

    def __init__(self) -> None:
        self.board = Board()
        self.metrics = Metrics("mlora", self.board.instrument)
        self.now_s = 0.0

    def tick(self, *jobs: JobStatus, hosts: tuple[HostStatus, ...] = (), seconds: int = 1, **more: object) -> None:
        for _ in range(seconds):
            self.metrics.observe(make_status(*jobs), hosts, now_s=self.now_s, tick_s=0.01, **more)  # type: ignore[arg-type]
            self.now_s += 1.0


def test_table_follows_its_own_rules() -> None:
    for spec in METRICS.values():
        assert re.fullmatch(r"mlora_[a-z]+(_[a-z]+)+", spec.name), spec.name
        assert not spec.name.endswith("_total"), "Ray adds it"
        assert spec.kind in ("counter", "gauge", "histogram")
        assert bool(spec.buckets) == (spec.kind == "histogram")
        assert list(spec.buckets) == sorted(spec.buckets)
        assert spec.description
        assert "service" not in spec.tags


def test_a_step_is_counted_once_through_replay_and_restart() -> None:
    watched = Watched()
    for step in (0, 3, 6, 4, 5, 6, 7):  # its host is lost at 6, the bundle was of 4
        watched.tick(make_job(step=step), seconds=2)
    watched.tick(make_job(step=7), seconds=2)
    assert watched.board.get("mlora_optimizer_steps", tenant="default") == 7
    assert watched.board.get("mlora_trained_tokens", tenant="default") == 56

    again = Watched()  # placement starts again: what it finds is not counted, what comes is
    again.tick(make_job(step=7), seconds=2)
    assert again.board.get("mlora_optimizer_steps", tenant="default") is None
    again.tick(make_job(step=9), seconds=2)
    assert again.board.get("mlora_optimizer_steps", tenant="default") == 2


def test_final_jobs_are_counted_by_state_and_tenant() -> None:
    watched = Watched()
    watched.tick(make_job("a", 1), make_job("b", 1), tenants={"b": "blue"})
    done = (make_job("a", 2, JobState.SUCCEEDED), make_job("b", 1, JobState.FAILED))
    watched.tick(*done, seconds=3, tenants={"b": "blue"})
    assert watched.board.get("mlora_finished_jobs", state="SUCCEEDED", tenant="default") == 1
    assert watched.board.get("mlora_finished_jobs", state="FAILED", tenant="blue") == 1
    assert watched.board.get("mlora_current_jobs", state="FAILED") == 1
    assert watched.board.get("mlora_current_jobs", state="TRAINING") == 0


def test_hosts_that_are_no_more_go_to_zero_and_cost_nothing() -> None:
    watched = Watched()
    watched.tick(hosts=(make_host(), make_host("cpu-1", "gone")), seconds=11, prices={"cpu": 36.0})
    alive = {"state": "alive", "host_type": "cpu", "base": "tiny:float32"}
    assert watched.board.get("mlora_current_hosts", **alive) == 1
    assert watched.board.get("mlora_cost_currency_per_hour") == 36.0
    assert watched.board.get("mlora_spent_currency") == pytest.approx(0.1)
    assert watched.board.get("mlora_host_memory_bytes", host="cpu-0", host_type="cpu") == 5
    assert watched.board.get("mlora_host_memory_bytes", host="cpu-1", host_type="cpu") is None
    watched.tick(prices={"cpu": 36.0})
    assert watched.board.get("mlora_current_hosts", **alive) == 0
    assert watched.board.get("mlora_cost_currency_per_hour") == 0
    assert watched.board.get("mlora_spent_currency") == pytest.approx(0.1)


def test_a_long_silence_is_not_charged() -> None:
    watched = Watched()
    watched.tick(hosts=(make_host(),), prices={"cpu": 36.0})
    watched.now_s += 3600
    watched.tick(hosts=(make_host(),), prices={"cpu": 36.0})
    assert watched.board.get("mlora_spent_currency") is None


def test_series_by_job_and_tenant_are_bounded_and_all_written_in_time() -> None:
    jobs = [make_job(f"j{i}", 1) for i in range(500)] + [make_job(f"q{i}", 0, JobState.QUEUED) for i in range(500)]
    tenants = {job.name: f"t{i % 250}" for i, job in enumerate(jobs)}
    watched = Watched()
    watched.tick(*jobs, hosts=tuple(make_host(f"h{i}") for i in range(50)), seconds=20, tenants=tenants)
    assert len(watched.board.values["mlora_job_progress_ratio"]) == 200
    assert len(watched.board.values["mlora_host_memory_bytes"]) == 50
    queued = watched.board.values["mlora_queued_jobs"]
    assert len(queued) == 101
    assert sum(queued.values()) == 500


def test_loss_of_a_job_before_its_first_step_is_not_shown() -> None:
    watched = Watched()
    watched.tick(JobStatus(name="a", state=JobState.PLACED, step=0, total_steps=10), seconds=2)
    assert watched.board.get("mlora_job_progress_ratio", job="a", tenant="default") == 0
    assert watched.board.values["mlora_job_loss_nats"] == {}


def test_events_and_times() -> None:
    watched = Watched()
    watched.metrics.count("mlora_job_migrations", reason="drain")
    watched.metrics.count("mlora_lost_steps", 0, cause="node")
    watched.metrics.seconds("mlora_recovery_seconds", -0.5, cause="node")
    assert watched.board.get("mlora_job_migrations", reason="drain") == 1
    assert watched.board.values["mlora_lost_steps"] == {}
    assert watched.board.times["mlora_recovery_seconds"] == [0.0]


@pytest.mark.parametrize(
    ("name", "value", "tags", "said"),
    [
        ("mlora_nothing_here", 1.0, {}, "mlora_nothing_here"),
        ("mlora_queued_tokens", 1.0, {}, "of kind counter"),  # a gauge
        ("mlora_job_migrations", 1.0, {}, "reason"),
        ("mlora_job_migrations", 1.0, {"reason": "drain", "host": "a"}, "host"),
        ("mlora_job_migrations", -1.0, {"reason": "drain"}, "-1.0"),
        ("mlora_job_migrations", float("nan"), {"reason": "drain"}, "nan"),
    ],
)
def test_mistakes_are_refused(name: str, value: float, tags: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Watched().metrics.count(name, value, **tags)


def test_trouble_with_the_agent_is_logged_once_and_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    watched.board.is_broken = True
    watched.tick(make_job(), hosts=(make_host(),), seconds=5)
    watched.metrics.seconds("mlora_recovery_seconds", 1.0, cause="node")
    assert [record.getMessage() for record in caplog.records if "metrics_failed" in record.getMessage()] == [
        "event=metrics_failed metric=mlora_current_jobs error=RuntimeError('no agent')"
    ]


def test_a_tick_of_2000_jobs_takes_milliseconds() -> None:
    """CPU time with Ray's real instruments, 2 to 3 ms on two machines; a look at every job for every metric took 40."""
    metrics = Metrics("speed", ray_instrument)
    hosts = [make_host(f"h{i}") for i in range(50)]
    spent = []
    for tick in range(20):
        jobs = [make_job(f"j{i}", tick) for i in range(400)]
        jobs += [make_job(f"q{i}", 0, JobState.QUEUED) for i in range(1600)]
        status = make_status(*jobs)
        before = time.process_time()
        metrics.observe(status, hosts, now_s=float(tick), tick_s=0.01, decision_s=0.01, prices={"cpu": 1.0})
        spent.append(time.process_time() - before)
    assert min(spent) < 0.02


def calls_in_the_package() -> list[tuple[str, str, set[str], str]]:
    """(metric, method, tags, where) of each literal `.count("mlora_…")` and `.seconds("mlora_…")`."""
    found = []
    for path in [*(ROOT / "mlora_ray").glob("**/*.py"), *(ROOT / "actors").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and str(first.value).startswith("mlora_"):
                    tags = {str(word.arg) for word in node.keywords} - {"value"}
                    found.append((str(first.value), node.func.attr, tags, f"{path.name}:{node.lineno}"))
    return [one for one in found if one[1] in ("count", "seconds")]


def test_every_call_in_the_package_names_a_metric_and_its_tags() -> None:
    """A wrong name would stop a placement in the rare moment that it counts."""
    for name, method, tags, where in calls_in_the_package():
        spec = METRICS[name]
        assert (spec.kind, set(spec.tags)) == ({"count": "counter", "seconds": "histogram"}[method], tags), where


def test_every_metric_is_fed() -> None:
    watched = Watched()
    for step in (0, 1, 2):
        jobs = (make_job("a", step), make_job("b", step, JobState.SUCCEEDED if step == 2 else JobState.QUEUED))
        watched.tick(*jobs, hosts=(make_host(),), seconds=3, decision_s=0.01, prices={"cpu": 1.0})
    observed = watched.board.values.keys() | watched.board.times.keys()
    called = {name for name, *_ in calls_in_the_package()}
    assert sorted(METRICS.keys() - observed - called) == []
