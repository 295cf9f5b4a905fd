"""A write that was done although it raised: the answer to its COMMIT was lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlora_ray.clock import VirtualClock
from mlora_ray.errors import DatabaseError
from mlora_ray.store.database.control_database import ControlDatabase
from mlora_ray.types import JobState
from mlora_ray.types.records import Commit
from tests.conftest import make_spec
from tests.fakes.service import Service
from tests.postgres import PostgresServer
from tests.store.database.lossy import LossyLine
from tests.store.database.test_control_database import bundle


@pytest.fixture
def line(postgres: PostgresServer) -> Iterator[LossyLine]:
    line = LossyLine(postgres.port)
    yield line
    line.close()


def test_a_write_whose_answer_is_lost_is_in_doubt(postgres: PostgresServer, line: LossyLine) -> None:
    database = ControlDatabase(line.url(postgres.new_schema()))
    database.add_jobs([make_spec("a")], 1.0)
    assert not database.is_in_doubt
    line.lose(1)
    with pytest.raises(DatabaseError):
        database.commit_bundle(bundle("a", 0, 1, 3), 2.0)
    assert database.is_in_doubt
    assert database.jobs()[0].step == 3, "it was done"
    assert database.commit_bundle(bundle("a", 0, 1, 3), 3.0) is Commit.STALE
    assert database.is_in_doubt
    database.settle_doubt()
    assert not database.is_in_doubt
    database.check_integrity()
    database.close()


def test_a_service_whose_answers_are_lost_loses_no_job(
    postgres: PostgresServer, line: LossyLine, tmp_path: Path, clock: VirtualClock
) -> None:
    """At every commit of a tick in turn, while jobs start, end, and hosts die."""
    service = Service(tmp_path, clock, database_url=line.url(postgres.new_schema()))
    for number in range(1, 31):
        line.lose(0)
        service.submit([make_spec(f"job-{number}", steps=4, save_steps=2)])
        if number % 5 == 0:
            service.transport.living[0].is_dead = True
        line.lose(number % 15 + 1)
        for _ in range(2):
            service.clock.advance(1.0)
            service.control.patient_tick()
    line.lose(0)
    service.run()
    assert line.num_lost > 15
    assert set(service.states().values()) == {JobState.SUCCEEDED}
    service.check_integrity()
    assert service.placement.records() == service.database.jobs()
    service.database.close()
