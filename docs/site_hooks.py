"""Hooks of the site (mkdocs.yml): what the code says of itself goes into the pages that ask for it by a comment.

`<!-- commands -->`, `<!-- metrics -->` and `<!-- modules -->` become the command line as typer tells it, the table of
metrics and a line a module. A link to a file of the repository that is no page becomes its text, once the file is seen.
"""

from __future__ import annotations

import ast
import html
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mlora_ray"
COMMENT = re.compile(r"^<!-- (commands|metrics|modules) -->$", re.MULTILINE)
# [text](path), where the path climbs out of docs/ from a page that is `depth` folders deep.
REPOSITORY_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Called by MkDocs with every page's text."""
    return _unlinked(COMMENT.sub(lambda found: WRITERS[found[1]](), markdown), ROOT / "docs" / page.file.src_uri)


def _unlinked(markdown: str, page: Path) -> str:
    """Raises FileNotFoundError where a link names no file of the repository."""

    def text_of(link: re.Match[str]) -> str:
        target = (page.parent / link[2]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return link[0]
        if not target.exists():
            raise FileNotFoundError(f"{page}: {link[0]} leads nowhere")
        return link[1]

    return REPOSITORY_LINK.sub(text_of, markdown)


def commands() -> str:
    """Every command with its arguments and options, by `typer utils docs`, without what it says of all together."""
    done = subprocess.run(
        [sys.executable, "-m", "typer", "mlora_ray.cli.app", "utils", "docs", "--name", "mlora-ray"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=True,
    )
    of_each = done.stdout[done.stdout.index("\n## ") :]
    return of_each.replace("$ mlora-ray", "mlora-ray").replace("```console", "```text").strip()


def metrics() -> str:
    """A table of every metric, as Prometheus finds it."""
    from mlora_ray.control.metric_table import METRICS

    lines = ["| name | kind | labels besides `service` | means |", "|---|---|---|---|"]
    for spec in METRICS.values():
        tags = ", ".join(f"`{tag}`" for tag in spec.tags)
        lines.append(f"| `{spec.exported[0].removesuffix('_bucket')}` | {spec.kind} | {tags} | {spec.description} |")
    return "\n".join(lines)


def modules() -> str:
    """A table a room, under what its `__init__.py` says: its modules, each with the first line of its docstring."""
    rooms: dict[str, list[str]] = {}
    for path in sorted(
        Path(folder) / name for folder, _, names in os.walk(PACKAGE, followlinks=True) for name in names
    ):
        if path.suffix == ".py" and path.parent != PACKAGE:
            place = (path.parent if path.name == "__init__.py" else path.with_suffix("")).relative_to(PACKAGE)
            rows = rooms.setdefault(place.parts[0], [])
            if len(place.parts) > 1:
                rows.append(f"| `{place.as_posix()}` | {_purpose(path)} |")
    return "\n\n".join(f"{_heading(room)}| module | |\n|---|---|\n" + "\n".join(rooms[room]) for room in sorted(rooms))


def _heading(room: str) -> str:
    page = PACKAGE / room / "__init__.py"
    return f"### {room}\n\n" + (f"{_purpose(page)}\n\n" if page.is_file() else "")


def _purpose(path: Path) -> str:
    """The first paragraph of a module's docstring, as a cell."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return html.escape(" ".join(text.partition("\n\n")[0].split()), quote=False).replace("|", "\\|")


WRITERS = {"commands": commands, "metrics": metrics, "modules": modules}
