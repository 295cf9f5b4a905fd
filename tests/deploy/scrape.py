"""Every metric of the table written on the Ray of head.py: what its port exports, and Prometheus makes of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mlora_ray.actors.ray_metrics import ray_instrument
from mlora_ray.control.metric_table import METRICS
from mlora_ray.control.metrics import Metrics
from mlora_ray.types import JobState
from mlora_ray.types.status import HostStatus, JobStatus, RunStatus

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
SAMPLES = 4


def scrape(expressions: list[str], folder: Path) -> dict[str, Any]:
    """The exported lines, and with Debian's prometheus how many series each expression of PromQL has."""
    import ray

    node = ray.nodes()[0]
    target = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    fed = Fed()
    text = fed.until(lambda: exported(f"http://{target}/metrics"), is_complete)
    found: dict[str, Any] = {"exported": [line for line in text.splitlines() if "mlora" in line]}
    if expressions:
        with prometheus(folder, target) as url:
            count = "min(count_over_time(ray_mlora_tick_seconds_count[5m]))"
            fed.until(lambda: ask(url, count), lambda answer: bool(answer) and float(answer[0]["value"][1]) >= SAMPLES)
            found["series"] = {expression: len(ask(url, expression)) for expression in expressions}
    return found


class Fed:
    """Metrics that go on as in a service: gauges are set again and again, for Ray forgets them."""

    def __init__(self) -> None:
        self._metrics = Metrics("scraped", ray_instrument)
        for spec in METRICS.values():
            tags = {tag: f"some-{tag}" for tag in spec.tags}
            if spec.kind == "counter":
                self._metrics.count(spec.name, 3, **tags)
            if spec.kind == "histogram":
                self._metrics.seconds(spec.name, 0.3, **tags)

    def until(self, ask: Any, is_right: Any) -> Any:
        """The first right answer, or the last at the deadline."""
        answer, began = None, time.monotonic()
        while time.monotonic() - began < DEADLINE_S:
            self._observe()
            answer = ask()
            if is_right(answer):
                break
            time.sleep(0.5)
        return answer

    def _observe(self) -> None:
        """Of a status that has something for every gauge."""
        training = JobStatus(name="a", state=JobState.TRAINING, step=1, total_steps=2, loss=1.0, tokens_per_s=2.0)
        queued = JobStatus(name="b", state=JobState.QUEUED, step=0, total_steps=2)
        host = HostStatus(
            id="h-0", host_type="cpu", base="tiny", state="alive", memory_bytes=1, memory_limit_bytes=2, row_tokens=3,
            step_time_drift=1.5,
        )  # fmt: skip
        status = RunStatus(jobs=(training, queued), tokens_per_s=2.0)
        self._metrics.observe(status, (host,), now_s=time.monotonic(), tick_s=0.1, decision_s=0.1)


def exported(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return ""


def is_complete(text: str) -> bool:
    return all(name in text for spec in METRICS.values() for name in spec.exported)


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """Debian's Prometheus with our example's configuration, but for where Ray is and how often; its URL."""
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "deploy/prometheus" / name) for name in config["rule_files"]]
    discovery = folder / "targets.json"
    discovery.write_text(json.dumps([{"targets": [target]}]), encoding="utf-8")
    config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [str(discovery)]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
               f"--web.listen-address={address}"]  # fmt: skip
    with open(os.devnull, "wb") as nowhere:
        process = subprocess.Popen(command, stdout=nowhere, stderr=nowhere)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask(url: str, expression: str) -> list[dict[str, Any]]:
    """The series of an instant query; none while Prometheus is not there yet. Raises ValueError when it refuses."""
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?query={urllib.parse.quote(expression)}", timeout=10) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())["data"]["result"]
            return found
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return []
        raise ValueError(f"{expression}: {error.read().decode()}") from error
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return []
