"""Every page, and the README: links lead somewhere, commands and files that are shown exist, job files are sound."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import mlora_ray as mr
from mlora_ray.cli.app import app
from mlora_ray.config.job_file import read_job_file
from tests.test_rooms import FLOORS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMANDS: Any = typer.main.get_command(app)
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"(?:mlora-ray|python -m mlora_ray) +([a-z]+)((?: +[^\s`|;&#)]+)*)")
NAMED_FILE = re.compile(
    r"`((?:deploy|tests|mlora_ray|examples|docs|policies|kernels|actors|benchmarks)/[\w./-]+\.\w+)`"
)
JOB_FILE = re.compile(r"(?:```yaml|jobs\.yaml <<'\w+')\n(.*?)^ *(?:```|EO[FT])$", re.MULTILINE | re.DOTALL)


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """Of every heading, as GitHub and the site make them."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


def dead_links(page: Path, text: str) -> list[str]:
    dead = []
    for link in re.findall(r"(?<!\!)\[[^\]]+\]\(([^)\s]+)\)", FENCE.sub("", text)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_page = target.suffix == ".md" and target.is_file()
        if not link.startswith("http") and (
            not target.exists() or (anchor and is_page and anchor not in anchors(target))
        ):
            dead.append(link)
    return dead


def unknown_commands(text: str) -> list[str]:
    """Commands, their subcommands and options that are none."""
    unknown = []
    for name, arguments in SHOWN.findall(text):
        command = COMMANDS.commands.get(name)
        words = arguments.split()
        if command is not None and hasattr(command, "commands"):
            command = command.commands.get(words[0]) if words else command
        if command is None:
            unknown.append(f"{name} {arguments.strip()}")
            continue
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        unknown += [f"{name} {word}" for word in words if re.fullmatch(r"--[a-z-]+", word) and word not in known]
    return unknown


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_shown_commands_exist(page: Path) -> None:
    assert unknown_commands(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_files_exist(page: Path) -> None:
    named = NAMED_FILE.findall(page.read_text(encoding="utf-8").replace("`tests/a/test_b.py`", ""))
    assert [name for name in named if not any((top / name).exists() for top in (ROOT, ROOT / "tests"))] == []


def test_job_files_are_sound(tmp_path: Path) -> None:
    """Each job file of a page, its rows put beside it."""
    shown = [
        (page_id(page), block)
        for page in PAGES
        for block in JOB_FILE.findall(page.read_text(encoding="utf-8"))
        if re.search(r"^base:", block, re.MULTILINE) and "jobs:" in block
    ]
    assert len(shown) >= 4
    for number, (page, block) in enumerate(shown):
        folder = tmp_path / str(number)
        for job in yaml.safe_load(block)["jobs"]:
            for rows in (job["train"], job.get("eval", job["train"])):
                (folder / rows).parent.mkdir(parents=True, exist_ok=True)
                (folder / rows).touch()
        (folder / "jobs.yaml").write_text(block, encoding="utf-8")
        assert read_job_file(folder / "jobs.yaml").mistakes == (), page


def test_the_python_page_has_every_public_name() -> None:
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    assert [name for name in mr.__all__ if not name.startswith("__") and not re.search(rf"\b{name}\b", page)] == []


@pytest.mark.parametrize("name", ["docs/architecture.md", "docs/adr/0008-rooms-by-purpose.md"])
def test_the_picture_of_the_floors_is_the_test_s(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    shown = {int(line[:2]): set(line[3:].split()) for line in re.findall(r"^ \d  .*$", text, re.MULTILINE)}
    assert shown == {number: set(rooms) for number, rooms in enumerate(FLOORS) if rooms != {"__main__"}}


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("[a](install.md#by-uv)", ["install.md#by-uv"]),
        ("[a](../README.md) [b](#memory)", []),
        ("[a](no-page.md)", ["no-page.md"]),
        ("[a](https://example.com/no-page.md)", []),
    ],
)
def test_the_reader_sees_dead_links(text: str, dead: list[str]) -> None:
    assert dead_links(ROOT / "docs/memory.md", text) == dead


def test_the_reader_sees_unknown_commands() -> None:
    text = "mlora-ray sumbit jobs.yaml\nmlora-ray bench peft --workload mixed --stepps 4\n`mlora-ray hosts --all`"
    assert unknown_commands(text) == ["sumbit jobs.yaml", "bench --stepps", "hosts --all"]
