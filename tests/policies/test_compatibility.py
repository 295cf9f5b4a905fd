"""Whether a host can train an adapter: base, device, bits."""

from __future__ import annotations

import dataclasses

import pytest

from mlora_ray.policies.compatibility import why_not, why_not_from_scratch
from mlora_ray.types import AdapterView
from tests.builders import views

HOST = dataclasses.replace(views.hosts(1)[0], base="b1", device_type="cuda", numerics="n1")
ADAPTER = dataclasses.replace(views.adapter("a"), base="b1")


@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        (ADAPTER, ""),
        (dataclasses.replace(ADAPTER, device_type="cuda", numerics="n1"), ""),
        (dataclasses.replace(ADAPTER, base="b2"), "it holds b1, the adapter needs b2"),
        (dataclasses.replace(ADAPTER, device_type="cpu"), "it is cuda, the adapter wants cpu"),
        (dataclasses.replace(ADAPTER, numerics="n2"), "it would compute other bits than the adapter began with"),
    ],
)
def test_what_keeps_an_adapter_from_a_host_is_said(adapter: AdapterView, why: str) -> None:
    assert why_not(adapter, HOST) == why


def test_bits_that_are_not_known_yet_keep_nobody_away() -> None:
    begun = dataclasses.replace(ADAPTER, numerics="n2")
    assert why_not_from_scratch(begun, HOST) == ""
    assert why_not_from_scratch(dataclasses.replace(begun, base="b2"), HOST) == why_not(
        dataclasses.replace(begun, base="b2"), HOST
    )
