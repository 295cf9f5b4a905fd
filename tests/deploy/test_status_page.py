"""The status page on a real Ray Serve, configured as the RayService manifest says."""

from __future__ import annotations

from typing import Any

import pytest

Answers = list[tuple[int, dict[str, object]]]


@pytest.fixture(scope="module")
def answers(head: dict[str, Any]) -> Answers:
    return [(code, said) for code, said in head["page"]]


def test_the_page_is_there_before_the_service(answers: Answers) -> None:
    healthy, early = answers[:2]
    assert healthy == (200, {"page": "ok"})
    assert early[0] == 503
    assert early[1]["error"] == "no placement service 'mlora' is on this cluster"


def test_the_page_counts_and_names_nobody(answers: Answers) -> None:
    code, status = answers[2]
    assert code == 200
    assert status == {
        "service": "mlora",
        "phase": "training",
        "jobs": {"TRAINING": 1, "QUEUED": 1},
        "hosts": {"alive": 1},
        "tokens_per_s": 12.3,
        "share_done": 0.25,
        "has_trouble": False,
    }


def test_there_is_nothing_else(answers: Answers) -> None:
    assert [code for code, _ in answers[3:]] == [404, 405]
