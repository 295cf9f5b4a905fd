"""docs/operations.md: the commands of ours that it shows exist with their options, and so do the files it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from mlora_ray.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
MANIFESTS = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "deploy").rglob("*.yaml"))]
SHOWN = re.compile(r"(?:mlora-ray|python -m mlora_ray) +([a-z]+)((?: +[\w./\[\]=-]+)*)")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def find_mistakes(text: str) -> list[str]:
    """Commands and options of `mlora-ray` in a text that are none."""
    mistakes = []
    for command, arguments in SHOWN.findall(text):
        if command not in COMMANDS:
            mistakes.append(f"no command {command}")
            continue
        known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        mistakes += [f"{command} has no {one}" for one in re.findall(r"--[a-z-]+", arguments) if one not in known]
    return mistakes


def test_the_page_shows_commands_that_exist() -> None:
    assert find_mistakes(PAGE) == []
    shown = {command for command, _ in SHOWN.findall(PAGE)}
    assert {"submit", "status", "logs", "hosts", "drain", "events", "export", "pause", "resume", "cancel"} <= shown


def test_manifests_call_commands_that_exist() -> None:
    assert [mistake for text in MANIFESTS for mistake in find_mistakes(text)] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("`mlora-ray sumbit jobs.yaml`", "no command sumbit"),
        ("mlora-ray hosts --all", "hosts has no --all"),
        ("python -m mlora_ray train jobs.yaml --adress auto", "train has no --adress"),
    ],
)
def test_the_check_finds_mistakes(text: str, said: str) -> None:
    assert find_mistakes(text) == [said]


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ +(.+?) *$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        if path:
            assert (ROOT / "docs" / path).exists(), target
        else:
            assert anchor in anchors, target


def test_files_it_names_are_there() -> None:
    named = set(re.findall(r"\b((?:deploy|tests|mlora_ray|examples)/[\w./-]+\.\w+)", PAGE))
    assert {"deploy/settings.yaml", "deploy/Dockerfile"} <= named | {"deploy/Dockerfile"}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_versions_it_names_are_the_files() -> None:
    tags = set(re.findall(r"mlora-ray:(\S+?)-(?:cpu|cuda)\b", PAGE + "".join(MANIFESTS)))
    assert tags == {"0.1.0"}
    version = re.search(r'__version__ = "(.+)"', (ROOT / "mlora_ray/__init__.py").read_text(encoding="utf-8"))
    assert version
    assert version[1] in tags
