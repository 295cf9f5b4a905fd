"""What the site takes from the code: all commands, metrics and modules, and no link out of it that leads nowhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from docs import site_hooks
from mlora_ray.control.metric_table import METRICS
from tests.test_rooms import MODULES


def written(markdown: str, page: str = "architecture.md") -> str:
    src: Any = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    return site_hooks.on_page_markdown(markdown, src, config=None, files=None)


def test_every_command_with_its_options() -> None:
    text = written("# Command line\n\n<!-- commands -->\n")
    assert text.startswith("# Command line\n\n")
    for command in ("train", "submit", "bench peft", "drain", "replay"):
        assert f"`mlora-ray {command}`" in text
    assert "--adapter-memory" in text
    assert "<!--" not in text


def test_every_metric_as_prometheus_finds_it() -> None:
    rows = written("<!-- metrics -->").splitlines()
    assert len(rows) == len(METRICS) + 2
    assert any(row.startswith("| `ray_mlora_trained_tokens_total` | counter | `tenant` |") for row in rows)


def test_every_module_has_a_line() -> None:
    text = written("<!-- modules -->")
    modules = [name.removeprefix("mlora_ray.").replace(".", "/") for name in MODULES if name.count(".") > 1]
    assert [name for name in modules if f"| `{name}` |" not in text] == []
    assert "| `engine/engine` | The engine: continuous batching" in text
    assert "### host\n\nWhat a host does between two ticks" in text


def test_links_to_files_that_are_no_pages_become_their_text() -> None:
    assert written("see [the rules](../deploy/prometheus/alerts.yaml) of [it](job-file.md)") == (
        "see the rules of [it](job-file.md)"
    )
    assert written("[jobs](../job-file.md#rows)", "how-to/resume.md") == "[jobs](../job-file.md#rows)"
    with pytest.raises(FileNotFoundError, match="leads nowhere"):
        written("[gone](../deploy/gone.yaml)")
