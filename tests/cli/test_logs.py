"""`events` begins after the event of a number."""

from __future__ import annotations

import pytest

from mlora_ray.cli.logs import parse_after
from mlora_ray.errors import InputError


@pytest.mark.parametrize("text", ["-1", "x", "", "1.5", "9" * 19, "²"])
def test_a_wrong_event_number_says_what_is_right(text: str) -> None:
    with pytest.raises(InputError, match="--after") as caught:
        parse_after(text)
    assert "first column of `mlora-ray events`" in str(caught.value)
    assert parse_after("17") == 17
