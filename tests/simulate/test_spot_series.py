"""Spot series read from files, and cut to what a simulation covers."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from mlora_ray.errors import InputError
from mlora_ray.simulate.elastic_simulation import SpotSeries
from mlora_ray.simulate.spot_series import cut, read_spot_series, span_s

INDEX = "trace,gap_s,ticks\nd/b,300,5\nd/a,60,4\n"


def arrays(folder: Path, index: str = INDEX, **series: object) -> Path:
    held = {"d/a": np.array([0, 2, 2, 1], np.int16), "d/b": np.array([1, 1, 1, 1, 1], np.int16)}
    np.savez(folder / "spot.npz", **(held | series))  # type: ignore[arg-type]
    (folder / "spot_index.csv").write_text(index)
    return folder / "spot.npz"


def test_arrays_with_their_index_become_changes_in_seconds(tmp_path: Path) -> None:
    a, b = read_spot_series(arrays(tmp_path))
    assert a == SpotSeries(zone="d/a", at_s=(0.0, 60.0, 180.0), available=(0, 2, 1))
    assert [a.at(s) for s in (0, 59, 60, 179, 180, 999)] == [0, 0, 2, 2, 1, 1]
    assert (b.at_s, b.available) == ((0.0, 1200.0), (1, 1)), "the end counts for the length"
    assert span_s(b) == 1200.0


def test_the_index_may_be_packed(tmp_path: Path) -> None:
    path = arrays(tmp_path)
    (tmp_path / "spot_index.csv").unlink()
    (tmp_path / "spot_index.csv.gz").write_bytes(gzip.compress(INDEX.encode()))
    assert len(read_spot_series(path)) == 2


def test_lines_of_changes(tmp_path: Path) -> None:
    path = tmp_path / "spot.csv"
    path.write_text("zone,at_s,available\nz,0,1\ny,5,0\nz,90.5,3\n")
    y, z = read_spot_series(path)
    assert z == SpotSeries(zone="z", at_s=(0.0, 90.5), available=(1, 3))
    assert y.available == (0,)


@pytest.mark.parametrize(
    ("index", "series", "said"),
    [
        (INDEX, {"d/c": np.array([1, 1])}, "series must be a series of the index, which names 2"),
        (INDEX, {"d/a": np.array([1, -1])}, "d/a must be 0 machines or more"),
        (INDEX, {"d/a": np.array([1.0, 2.0])}, "d/a must be whole numbers in one dimension"),
        (INDEX, {"d/a": np.array([[1, 2]])}, r"it has shape \(1, 2\)"),
        ("trace,gap_s\nd/a,0\nd/b,300\n", {}, "spot_index.csv:2: gap_s must be seconds above 0"),
        (
            "trace,gap\nd/a,0\n",
            {},
            r"spot_index\.csv:1: gap_s must be a column: .* trace, gap_s; there are trace, gap",
        ),
    ],
)
def test_mistakes_in_arrays_are_named(tmp_path: Path, index: str, series: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_spot_series(arrays(tmp_path, index, **series))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = arrays(tmp_path)
    path.write_bytes(b"no arrays")
    with pytest.raises(InputError, match=r"spot\.npz: series must be a readable file"):
        read_spot_series(path)
    (tmp_path / "spot_index.csv").unlink()
    with pytest.raises(InputError, match=r"index must be beside it: spot_index\.csv or spot_index\.csv\.gz"):
        read_spot_series(path)
    with pytest.raises(InputError, match=r"gone\.csv: series must be a readable file"):
        read_spot_series(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("z,0,1\nz,0,2\n", ":3: at_s must be seconds, later than the zone's line before"),
        ("z,soon,1\n", ":2: at_s must be "),
        ("z,0,-1\n", ":2: available must be a whole number, 0 or more"),
        ("z,0,1.5\n", ":2: available must be "),
        ("z,0\n", ":2: available"),
        ("", "series must be in the file; it has none"),
    ],
)
def test_mistakes_in_lines_are_named(tmp_path: Path, lines: str, said: str) -> None:
    path = tmp_path / "spot.csv"
    path.write_text("zone,at_s,available\n" + lines)
    with pytest.raises(InputError, match=said):
        read_spot_series(path)


def test_a_cut_begins_at_zero_and_goes_on_from_the_beginning_where_the_series_ends() -> None:
    series = SpotSeries(zone="z", at_s=(0.0, 100.0, 250.0, 400.0), available=(1, 0, 2, 2))
    held = cut(series, 150.0, 600.0, "here", depth=3)
    assert held.zone == "here"
    assert held.at_s == (0.0, 100.0, 250.0, 350.0, 500.0), "at 250 its second 400, which is its second 0 again"
    assert held.available == (0, 6, 3, 0, 6)
    assert all(held.at(s) == 3 * series.at(150.0 + s) for s in range(0, 250, 10))


def test_a_series_without_a_change_has_one_line() -> None:
    assert cut(SpotSeries(zone="z", at_s=(0.0,), available=(2,)), 0.0, 900.0, "a").available == (2,)
