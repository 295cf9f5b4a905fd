"""What the cluster commands print: tables that fit, logs in order, hosts and jobs in a row each."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from mlora_ray.actors.client import ServiceEnded
from mlora_ray.display.host_table import COLUMNS, host_cells
from mlora_ray.display.status_table import JOB_COLUMNS, job_cells, print_status, status_json
from mlora_ray.display.tables import Column, print_table
from mlora_ray.errors import MloraError
from mlora_ray.run.interrupt import Interrupt
from mlora_ray.run.watch import NotBegun, exit_code, host_line, watch
from mlora_ray.types import HostInfo, JobState
from mlora_ray.types.status import HostStatus, JobStatus, RunStatus

WHY = "node 10.0.0.7 cannot reach the storage: /mnt/runs/.mlora/probe: cannot be read: No such file or directory"


def printed(width: int, *, is_terminal: bool = True) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=width, force_terminal=is_terminal, color_system=None), text


def job(name: str, state: JobState, **values: object) -> JobStatus:
    held = {"step": 1200, "total_steps": 40000, "loss": 1.2345, "num_tokens": 99, "tokens_per_s": 1234.0} | values
    return JobStatus(name=name, state=state, **held)  # type: ignore[arg-type]


JOBS = (
    job("support-tickets-2026-german", JobState.TRAINING, host="spot-a100-12"),
    job("sql", JobState.FAILED, error="loss is nan at step 17; its last good bundle is step 10"),
    job("x" * 128, JobState.QUEUED, step=0, loss=math.nan),
)
HOSTS = (
    HostStatus(
        id="cpu-0", host_type="cpu", base="smollm2-135m:bfloat16", state="alive", node_id="9b2943e7" * 7,
        node_ip="10.0.0.7", num_jobs=12, tokens_per_s=1234.5, memory_bytes=1_950_000_000,
        memory_limit_bytes=6_400_000_000, alive_s=4000.0, row_tokens=1536,
    ),
    HostStatus(id="cpu-1", host_type="cpu", base="smollm2-135m:bfloat16", state="gone", detail=WHY),
)  # fmt: skip


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_what_matters_stays(width: int) -> None:
    out, text = printed(width)
    print_table(out, JOB_COLUMNS, [job_cells(one) for one in JOBS])
    print_table(out, COLUMNS, [host_cells(one) for one in HOSTS])
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == len(JOBS) + len(HOSTS) + 2
    for word in ("support", "TRAINING", "FAILED", "1,200/40,000", "cpu-0", "alive", "gone"):
        assert word in text.getvalue(), word
    if width >= 80:
        assert "support-tickets-2026-german" in text.getvalue()
        assert "loss is nan" in text.getvalue()
        assert "node 10.0.0" in text.getvalue()


def test_without_a_terminal_everything_is_there_between_tabs() -> None:
    out, text = printed(20, is_terminal=False)
    print_table(out, COLUMNS, [host_cells(one) for one in HOSTS])
    first, second, third = (line.split("\t") for line in text.getvalue().splitlines())
    assert first == [column.name for column in COLUMNS]
    assert len(second) == len(third) == len(COLUMNS)
    at = first.index("row")
    assert (second[at], third[at]) == ("1,536", "")
    assert third[-1] == WHY


def test_a_line_break_in_a_cell_breaks_no_line() -> None:
    out, text = printed(60)
    print_table(out, (Column("a"), Column("why")), [("x", "one\ntwo\tthree")])
    assert text.getvalue().splitlines()[1].split() == ["x", "one", "two", "three"]


def test_what_needs_a_look_comes_first_and_many_jobs_are_cut() -> None:
    many = tuple(job(f"done-{i}", JobState.SUCCEEDED) for i in range(50))
    out, text = printed(100)
    print_status(RunStatus(jobs=(*many, *JOBS), warnings=("the storage is slow",)), out)
    lines = text.getvalue().splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["support-tickets-2026-german", "sql", "x" * 31 + "…"]
    assert "… and 13 more jobs: name them, or --json" in lines
    assert "1 QUEUED · 1 TRAINING · 50 SUCCEEDED · 1 FAILED · 96.2%" in lines
    assert lines[-1] == "warning: the storage is slow"


def test_status_as_json_says_what_is_computed_too() -> None:
    plain = status_json(RunStatus(jobs=JOBS, total_tokens=100, done_tokens=25, tokens_per_s=5.0))
    assert (plain["share_done"], plain["eta_s"]) == (0.25, 15.0)
    assert plain["jobs"][1]["state"] == "FAILED"


def test_a_host_that_could_not_start_says_why_and_jobs_that_failed_count() -> None:
    assert host_line(HOSTS[0]) == "alive on node 10.0.0.7"
    assert host_line(HOSTS[1]) == f"gone: {WHY}"
    assert exit_code(RunStatus(jobs=(job("a", JobState.SUCCEEDED),))) == 0
    assert exit_code(RunStatus(jobs=(job("a", JobState.SUCCEEDED), job("b", JobState.CANCELLED)))) == 3


class ScriptedService:
    """Answers of a service in the order they come; an exception is raised."""

    name = "mlora"

    def __init__(self, *answers: RunStatus | Exception, is_private: bool = False, num_hosts: int = 0) -> None:
        self.answers, self.is_private, self.num_hosts = list(answers), is_private, num_hosts

    def infos(self) -> tuple[HostInfo, ...]:
        sizes = dict.fromkeys(("memory_limit_bytes", "base_bytes", "activation_bytes", "adapter_bytes"), 0)
        of_all = {"base": "tiny", "base_sha256": "0", "device_type": "cpu", "summary": "memory limit 4 GiB"}
        return tuple(
            HostInfo(id=f"cpu-{number}", pid=1, token_budget=0, **sizes, **of_all) for number in range(self.num_hosts)
        )

    def status(self, names: tuple[str, ...]) -> RunStatus:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def hosts(self, is_gone_included: bool) -> tuple[HostStatus, ...]:
        return HOSTS


def watched(monkeypatch: pytest.MonkeyPatch, *answers: RunStatus | Exception) -> tuple[RunStatus, str]:
    for name in ("POLL_S", "RETRY_S"):
        monkeypatch.setattr(f"mlora_ray.run.watch.{name}", 0.0)
    out, text = printed(200, is_terminal=False)
    return watch(ScriptedService(*answers), ("a",), Interrupt(), out), text.getvalue()  # type: ignore[arg-type]


def test_watching_outlasts_a_service_that_is_away_and_tells_a_new_warning_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trains = RunStatus(jobs=(job("a", JobState.TRAINING),), warnings=("the storage is slow",))
    done = RunStatus(jobs=(job("a", JobState.SUCCEEDED),), warnings=("the storage is slow",))
    status, text = watched(monkeypatch, trains, MloraError("service 'mlora' did not answer"), trains, done)
    assert status.jobs == done.jobs
    assert text.count("service 'mlora' did not answer; asking again") == 1
    assert text.count("warning: the storage is slow") == 1
    assert "cpu-0: alive on node 10.0.0.7" in text
    assert WHY not in text  # it was gone before


def test_a_run_alone_whose_hosts_cannot_be_had_is_summed_up_only_if_there_was_one() -> None:
    out, text = printed(200, is_terminal=False)
    lost = RunStatus(jobs=(job("a", JobState.QUEUED),), error="the base cannot be loaded")

    def watch_alone(num_hosts: int) -> RunStatus:
        service = ScriptedService(lost, is_private=True, num_hosts=num_hosts)
        return watch(service, ("a",), Interrupt(), out)  # type: ignore[arg-type]

    with pytest.raises(NotBegun, match="the base cannot be loaded"):
        watch_alone(0)
    assert watch_alone(1) == lost
    assert text.getvalue().count("cpu-0: memory limit 4 GiB") == 1


def test_watching_ends_with_a_service_that_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    trains = RunStatus(jobs=(job("a", JobState.TRAINING),))
    lost = RunStatus(jobs=trains.jobs, error="another service holds the database")
    with pytest.raises(MloraError, match="has stopped: another service holds the database; `mlora-ray stop --force`"):
        watched(monkeypatch, trains, lost)
    with pytest.raises(ServiceEnded, match="is dead"):
        watched(monkeypatch, trains, ServiceEnded("is dead"))
