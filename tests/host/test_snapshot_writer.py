"""What a job leaves: bundles, and the files of a finished adapter."""

from __future__ import annotations

import json

from tests.conftest import real_spec
from tests.host.one_host import Host


def test_a_job_leaves_its_files_bundles_and_steps(host: Host) -> None:
    spec = real_spec(host.folder, "a", eval_rows=True, eval_steps=3)
    host.assign(spec)
    host.advance()
    assert [(b.step, b.is_final) for b in host.bundles] == [(2, False), (4, False), (6, True)]
    steps = [s for b in host.bundles for s in b.steps]
    assert [s.step for s in steps] == [1, 2, 3, 4, 5, 6]
    assert [s.step for s in steps if s.eval_loss is not None] == [3, 6]
    out = host.folder / "out" / "a"
    names = {"adapter_config.json", "adapter_model.safetensors", "eval.json", "job.json"}
    assert {p.name for p in out.iterdir()} == names
    losses = json.loads((out / "eval.json").read_text())
    assert losses["adapter"]["loss"] == steps[-1].eval_loss
    job = json.loads((out / "job.json").read_text())
    assert job["weights_sha256"] == host.final("a").weights_sha256
    assert job["spec"]["train"]["max_steps"] == 6
    assert (job["device"], job["threads"]) == ("cpu", 1)
    assert host.hosting.report().progress == ()


def test_outputs_that_cannot_be_written_keep_the_last_bundle(host: Host) -> None:
    (host.folder / "out").write_text("in the way")
    host.assign(real_spec(host.folder, "a"))
    host.advance()
    assert [b.step for b in host.bundles] == [2, 4, 6]
    assert not any(b.is_final for b in host.bundles)
    assert "its last good bundle is step 6" in host.failures[0].error
    (host.folder / "out").unlink()
    host.assign(real_spec(host.folder, "a"), epoch=2, bundle_uri=host.bundles[-1].bundle_uri)
    host.advance()
    assert host.final("a").steps == ()
