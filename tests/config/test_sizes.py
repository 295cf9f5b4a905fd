"""Sizes as people write them; what is no size is refused whole, never read in part."""

from __future__ import annotations

import pytest

from mlora_ray.config.sizes import parse_bytes
from mlora_ray.errors import InputError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9),
        ("512MiB", 512 << 20),
        ("512 mib", 512 << 20),
        ("8Gi", 8 << 30),
        ("1.5g", 1_500_000_000),
        ("20", 20),
        ("20b", 20),
        ("", 0),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text, "--max-memory") == size


@pytest.mark.parametrize("text", ["lots", "-1GB", "0", "8,5GB", "1,000", "8GB more", "8.5.3", "8gbit", "GB", "inf"])
def test_what_is_no_size_names_the_option_and_what_is_allowed(text: str) -> None:
    with pytest.raises(InputError, match="--max-memory") as caught:
        parse_bytes(text, "--max-memory")
    (mistake,) = caught.value.mistakes
    assert mistake.value == text
    assert mistake.allowed == "a size above zero, such as 8GB, 512MiB or 2000000000"
