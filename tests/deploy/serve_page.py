"""The status page on the Ray of head.py, served as deploy/kuberay/rayservice.yaml says."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


class Placement:
    """Answers as the placement actor does."""

    def status(self) -> Any:
        from mlora_ray.types import JobState
        from mlora_ray.types.status import JobStatus, RunStatus

        jobs = (
            JobStatus(name="secret-a", state=JobState.TRAINING, step=1, total_steps=4),
            JobStatus(name="secret-b", state=JobState.QUEUED, step=0, total_steps=4),
        )
        return RunStatus(jobs=jobs, tokens_per_s=12.345, total_tokens=100, done_tokens=25)

    def hosts(self) -> Any:
        from mlora_ray.types.status import HostStatus

        return (HostStatus(id="cpu-0", host_type="cpu", base="b", state="alive"),)


def get(port: int, path: str, method: str = "GET") -> list[Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return [answer.status, json.loads(answer.read())]
    except urllib.error.HTTPError as error:
        return [error.code, json.loads(error.read())]


def page_answers() -> list[list[Any]]:
    """Code and JSON of each answer, before and after a placement service is there."""
    import ray
    from ray import serve
    from ray.serve.schema import ServeDeploySchema

    from mlora_ray.gateway.status_page import KEPT_S, build

    manifest = yaml.safe_load((ROOT / "deploy/kuberay/rayservice.yaml").read_text(encoding="utf-8"))
    config = ServeDeploySchema.parse_obj(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    application = config.applications[0]
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    serve.start(proxy_location=config.proxy_location.value, http_options={"host": "127.0.0.1", "port": port})
    serve.run(build(application.args), name=application.name, route_prefix=application.route_prefix)
    answers = [get(port, "/healthz"), get(port, "/status")]
    placement = ray.remote(Placement).options(name="mlora", namespace="mlora", num_cpus=0).remote()
    ray.get(placement.status.remote(), timeout=60)
    deadline = time.monotonic() + 10 * KEPT_S
    while (answer := get(port, "/status"))[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    answers += [answer, get(port, "/jobs"), get(port, "/status", "POST")]
    serve.shutdown()
    return answers
