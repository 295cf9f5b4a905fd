"""`mlora-ray profile` on the tiny base: measured, fitted, written, read back; and what it says of bad options."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from mlora_ray.bases.resolve import resolve_base
from mlora_ray.config.step_time_profiles import read_profile
from mlora_ray.errors import InputError
from mlora_ray.profiling.memory import Held, fit_memory, measure_peaks
from mlora_ray.profiling.run import ProfileOptions, numbers, run_profile
from mlora_ray.profiling.table import print_profile
from mlora_ray.profiling.workload import Shape

TINY = ProfileOptions(base="tiny-llama", ranks=(8, 32), is_quick=True, has_memory=False, max_tokens=512, clock="cpu")


def with_(**changes: object) -> ProfileOptions:
    return dataclasses.replace(TINY, **changes)  # type: ignore[arg-type]


def test_a_real_profile_is_written_and_read_back(tmp_path: Path) -> None:
    out = str(tmp_path / "tiny.json")
    heard: list[str] = []
    result = run_profile(with_(out=out, command="mlora-ray profile", date="2026-01-01"), heard.append)
    model = read_profile(out)
    assert (model.base, model.device_type, model.token_budget) == ("tiny-llama:bfloat16", "cpu", 1536)
    assert "mlora-ray profile" in model.source
    assert "2026-01-01" in model.source
    assert len(result["rows"]) == len(heard) - 1 == 8  # 128 and 512 tokens, 1 and 4 adapters, two ranks
    for row in result["rows"]:
        assert row["packed_rows"] == row["model_rows"] == 1
        assert row["cpu_s"] > 0
        said = model.step_s(row["tokens"], row["num_adapters"], row["tokens"] * row["lora_rank"])
        assert said == pytest.approx(row["fitted_s"])
        assert row["residual"] == pytest.approx(said / row["cpu_s"] - 1)
    assert max(abs(row["residual"]) for row in result["rows"]) < 1  # a rough fit on a busy machine, not nonsense
    page = io.StringIO()
    print_profile(result, Console(file=page, width=120))
    assert "tiny-llama:bfloat16" in page.getvalue()
    assert "of 8 within 10%" in page.getvalue()


def test_more_rows_than_fit_one_are_counted() -> None:
    """Past the token budget, as the engine packs and as the model splits."""
    result = run_profile(with_(max_tokens=2048, ranks=(8,)), lambda line: None)
    longest = [row for row in result["rows"] if row["tokens"] == 2048]
    assert [row["packed_rows"] for row in longest] == [row["model_rows"] for row in longest] == [2, 2]


def test_a_process_says_its_peak_and_the_model_foretells_it() -> None:
    spec = resolve_base("tiny-llama", "bfloat16")
    wanted = [Held(Shape(256, 2, 8), 128), Held(Shape(512, 4, 8), 128, is_held_out=True)]
    (_, first), (_, second) = measure_peaks(spec, 1, wanted, lambda one, peak: None)
    assert second.own_bytes == 2 * first.own_bytes
    assert first.base_bytes == second.base_bytes > 0
    assert first.peak_bytes > first.base_bytes + first.own_bytes
    model = fit_memory([first], spec.id)
    predicted = model.peak_bytes(second.base_bytes, 512, 128, second.own_bytes)
    assert predicted == pytest.approx(second.peak_bytes, rel=0.1)


def test_bad_options_come_all_at_once() -> None:
    with pytest.raises(InputError) as caught:
        run_profile(with_(ranks=(8, 64), max_tokens=100, clock="sun", out="/no/such/folder/p.json"), lambda line: None)
    said = {m.field: (m.value, m.allowed) for m in caught.value.mistakes}
    assert said["--ranks"] == ("64", "1 to 32, what tiny-llama's layers allow")
    assert said["--max-tokens"] == ("100", "at least 256")
    assert said["--clock"] == ("sun", "one of wall, cpu")
    assert said["--out"] == ("/no/such/folder/p.json", "a file in a directory that is there")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"clock": "cpu", "threads": 2}, "--clock must be wall where --threads is 2"),
        ({"base": "no-such-base"}, "base must be "),
        ({"dtype": "float8"}, "dtype must be one of bfloat16, float32"),
        ({"ranks": (0,)}, "--ranks must be "),
    ],
)
def test_a_bad_option_is_named(changes: dict[str, object], why: str) -> None:
    with pytest.raises(InputError) as caught:
        run_profile(with_(**changes), lambda line: None)
    assert why in str(caught.value)


def test_numbers_with_commas() -> None:
    assert numbers("--ranks", "8,64") == (8, 64)
    with pytest.raises(InputError, match="--ranks must be whole numbers"):
        numbers("--ranks", "8;64")
