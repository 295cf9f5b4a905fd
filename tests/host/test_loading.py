"""What cannot be read, or finds no room."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from tests.conftest import real_spec
from tests.host.one_host import Host


@pytest.mark.parametrize("what", ["rows are gone", "rows are others", "bundle is torn", "bundle of another"])
def test_what_cannot_be_read_fails_that_job_alone(host: Host, what: str) -> None:
    good, bad = real_spec(host.folder, "good"), real_spec(host.folder, "bad")
    uri = ""
    if what == "rows are gone":
        bad = dataclasses.replace(bad, train_rows=dataclasses.replace(bad.train_rows, uri=str(host.folder / "none")))
    elif what == "rows are others":
        bad = dataclasses.replace(bad, train_rows=dataclasses.replace(bad.train_rows, uri=good.train_rows.uri))
    else:
        host.assign(real_spec(host.folder, "donor"))
        host.advance()
        uri = host.final("donor").bundle_uri
        if what == "bundle is torn":
            Path(uri).write_bytes(Path(uri).read_bytes()[:-1])
    host.assign(bad, bundle_uri=uri)
    host.assign(good)
    host.advance()
    assert [(f.job, f.is_unread) for f in host.failures] == [("bad", True)]
    assert host.final("good")


def test_an_adapter_that_finds_no_room_beside_others_is_tried_again_and_fails_only_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    host.assign(real_spec(host.folder, "one", max_steps=50))
    host.advance(lambda: any(p.step > 0 for p in host.hosting.report().progress))
    monkeypatch.setattr(host.engine, "admit", no_room)
    host.assign(real_spec(host.folder, "two"))
    host.advance(lambda: bool(host.failures))
    assert [(f.job, f.is_unread) for f in host.failures] == [("two", True)]
    monkeypatch.undo()
    host.advance()
    monkeypatch.setattr(host.engine, "admit", no_room)
    host.assign(real_spec(host.folder, "three"))
    host.advance(lambda: len(host.failures) == 2)
    assert [(f.job, f.is_unread) for f in host.failures[1:]] == [("three", False)]
