"""report.html: whole, self-contained, escaped and small, for one job and for 500."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mlora_ray.errors import StorageError
from mlora_ray.report import write_report
from mlora_ray.report.charts import cross_shares
from mlora_ray.report.loss_chart import smooth, sparkline
from mlora_ray.report.run_data import CrossEval
from tests.builders.runs import TASKS, make_run

VOID = {"meta", "input", "br", "link", "img"}


class Reader(HTMLParser):
    """Checks that every tag closes, and gathers tags, attributes, ids and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def _read(run_dir: Path) -> tuple[str, Reader]:
    page = Path(write_report(str(run_dir))).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return page, reader


def _charts(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r'<svg role="img".*?</svg>', page, flags=re.S)]


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Reader]:
    return _read(make_run(tmp_path_factory.mktemp("runs") / "eight", num_steps=60))


def test_the_page_needs_nothing_else(eight: tuple[str, Reader]) -> None:
    page, reader = eight
    links = [
        value for _, attrs in reader.seen for name, value in attrs.items() if name in ("src", "href", "xlink:href")
    ]
    assert [link for link in links if link and not link.startswith(("#", "data:"))] == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert len(page) < 400_000


def test_every_chart_is_titled_described_and_follows_the_scheme(eight: tuple[str, Reader]) -> None:
    page, reader = eight
    charts = _charts(page)
    assert len(charts) == 3
    for chart in charts:
        title, description = chart[0], chart[1]
        assert title.tag.endswith("title")
        assert title.text
        assert description.tag.endswith("desc")
        assert description.text
        assert chart.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert "#0a0b" not in page
    ids = [attrs["id"] for _, attrs in reader.seen if attrs.get("id")]
    assert len(ids) == len(set(ids))
    names = {value for _, attrs in reader.seen for value in (attrs.get("href"), attrs.get("xlink:href")) if value}
    assert {name[1:] for name in names if name.startswith("#")} <= set(ids)


def test_headline_heatmap_and_table(eight: tuple[str, Reader]) -> None:
    page, reader = eight
    text = " ".join(reader.text)
    assert "8 of 8" in text
    assert "Best on its own rows" in text
    assert page.count('class="best"') == 8
    assert sum(tag == "path" and len(attrs) == 1 for tag, attrs in reader.seen) >= 8  # the sparklines
    assert all(f">{name}<" in page for name in TASKS)
    assert "base, no adapter" in text


def test_names_and_errors_are_escaped(tmp_path: Path) -> None:
    odd = ["<script>alert(1)<", "a $x^2$ & b", "漢字 ünï" * 6]
    page, reader = _read(make_run(tmp_path / "odd <b>", odd, num_steps=12, failed={odd[0]: "<img src=x> & more"}))
    assert [tag for tag, _ in reader.seen].count("script") == 1
    assert "img" not in {tag for tag, _ in reader.seen}
    text = " ".join(reader.text)
    assert all(name in text for name in odd)
    assert "1 job failed" in text
    assert "<img src=x> & more" in text
    assert any("a $x^2$ & b" in (part or "") for chart in _charts(page) for part in chart.itertext())


def test_not_a_number_leaves_a_gap_and_a_mark(tmp_path: Path) -> None:
    page, _ = _read(make_run(tmp_path / "run", TASKS[:3], num_steps=40, nan_from={"dates": 9}))
    assert "at step 9" in page
    assert not re.search(r"\b[Nn]a[Nn]\b", page.split("<script>")[0])


def test_one_job_without_eval_rows_or_samples(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", ["solo"], num_steps=1, has_eval=False)
    summary = json.loads((run_dir / "summary.json").read_text())
    (run_dir / "summary.json").write_text(json.dumps(summary | {"throughput": [], "cross_eval": None}))
    page, reader = _read(run_dir)
    text = " ".join(reader.text)
    assert "No job has eval rows" in text
    assert "Cross-evaluation" not in text
    (run_dir / "summary.json").write_text(json.dumps(summary | {"cross_eval_note": "no cross-evaluation: too many"}))
    assert "no cross-evaluation: too many" in " ".join(_read(run_dir)[1].text)
    assert len(_charts(page)) == 1


def test_every_job_failed_at_once(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", TASKS[:2], num_steps=1, failed=dict.fromkeys(TASKS[:2], "no memory"))
    _, reader = _read(run_dir)
    assert "0 of 2" in " ".join(reader.text)
    assert "No step was recorded" in " ".join(reader.text)


def test_five_hundred_jobs(tmp_path: Path) -> None:
    names = [f"tenant-{i:03d}" for i in range(500)]
    failed = {names[i]: "loss is inf" for i in range(0, 500, 50)}
    page, reader = _read(make_run(tmp_path / "run", names, num_steps=24, failed=failed, nan_from={names[7]: 5}))
    assert len(page) < 2_000_000
    assert all(f">{name}<" in page for name in names)
    text = " ".join(reader.text)
    assert "490 of 500" in text
    assert "as percentile bands" in page
    assert "2 more" in text
    assert len(_charts(page)) == 4


def test_a_broken_directory_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no summary"):
        write_report(str(tmp_path))
    (tmp_path / "summary.json").write_text('{"jobs": [{"state": "FAILED"}]}')
    with pytest.raises(StorageError, match="not as expected"):
        write_report(str(tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_cross_evaluation_is_judged_column_by_column() -> None:
    cross = CrossEval(
        adapters=("a", "b"),
        rows=("a", "b", "c"),
        losses=((1.0, 2.0, None), (1.0, 6.0, None)),
        base_losses=(3.0, 2.0, None),
    )
    assert [cross.best_of(column) for column in range(3)] == [0, 0, None]
    assert cross.num_own_best() == (1, 2)
    better, worse = cross_shares(cross)
    np.testing.assert_allclose(better, [[1, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(worse, [[0, 0, 0], [0, 1, 0]])


def test_smoothing_keeps_gaps_and_length() -> None:
    losses = np.ones(100)
    losses[40] = np.nan
    assert np.flatnonzero(np.isnan(smooth(losses))).tolist() == [40]
    np.testing.assert_allclose(np.delete(smooth(losses), 40), 1.0)
    assert sparkline([1.0]) == ""
    assert sparkline([2.0, None, 1.0]).startswith("M2 2.0L")
