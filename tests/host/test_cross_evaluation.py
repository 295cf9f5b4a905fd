"""Every adapter on every job's rows, between two steps."""

from __future__ import annotations

import json

from mlora_ray.types import (
    CrossRequest,
)
from tests.conftest import real_spec
from tests.host.one_host import Host


def test_cross_evaluation_runs_between_steps(host: Host) -> None:
    specs = [real_spec(host.folder, name, eval_rows=True) for name in ("a", "b")]
    long = real_spec(host.folder, "long", max_steps=500, save_steps=0)
    for spec in (*specs, long):
        host.assign(spec)
    host.advance(lambda: sum(b.is_final for b in host.bundles) == 2)
    requests = [CrossRequest(s, host.final(s.name).bundle_uri) for s in specs]
    losses = host.hosting.call(lambda: host.hosting.cross_evaluate(requests, 32))
    host.hosting.advance()
    matrix = losses.result(0)
    for i, spec in enumerate(specs):
        held = json.loads((host.folder / "out" / spec.name / "eval.json").read_text())
        assert matrix.loss[i][i] == held["adapter"]["loss"]
        assert matrix.base_loss[i] == held["base"]["loss"]
