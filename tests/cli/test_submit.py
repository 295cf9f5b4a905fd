"""What `submit` says to do next."""

from __future__ import annotations

import pytest

from mlora_ray.cli.options import DEFAULT_SERVICE
from mlora_ray.cli.submit import watching_command
from mlora_ray.config.service_settings import ServiceSettings


def test_the_command_that_watches_is_of_this_service_on_this_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert watching_command("mlora", "auto") == "mlora-ray status --watch"
    assert watching_command("two", "auto") == "mlora-ray status --watch --service two"
    assert watching_command("mlora", "10.0.0.1:6379") == "mlora-ray status --watch --address 10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert watching_command("mlora", "10.0.0.1:6379") == "mlora-ray status --watch"


def test_the_service_taken_where_none_is_named_is_the_one_that_is_started() -> None:
    assert ServiceSettings().name == DEFAULT_SERVICE
