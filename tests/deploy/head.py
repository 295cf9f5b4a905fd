"""One Ray of its own that is scraped, serves the status page, and at last is drained; prints as JSON what each said.

Run by conftest.py in a process of its own: how often Ray reports is read when a process starts. PromQL comes on
standard input, a line each.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NOTICE_S = 300.0


class Host:
    """Keeps its node busy: an idle one would go at once."""

    def answer(self) -> str:
        return "still here"


def main() -> int:
    import ray

    from tests.deploy.scrape import scrape
    from tests.deploy.serve_page import page_answers

    expressions = [line for line in sys.stdin.read().splitlines() if line]
    folder = tempfile.mkdtemp(prefix="mlora-", dir="/tmp")
    try:
        ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=128 << 20,
                 log_to_driver=False, _temp_dir=folder)  # fmt: skip
        found = scrape(expressions, Path(folder))
        found["page"] = page_answers()
        found["drained"] = drained()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found))
    return 0


def drained() -> dict[str, Any]:
    """What a host says on a node that was drained, and how long it has left."""
    import ray

    host = ray.remote(Host).options(num_cpus=1).remote()
    ray.get(host.answer.remote(), timeout=60)
    here = ray.get_runtime_context()
    code = "from mlora_ray.actors.spot_notice import drain_this_node as drain; "
    code += f"drain({time.time() + NOTICE_S}, {here.gcs_address!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=90)
    deadline_ms = ray._private.state.state.get_draining_nodes()[here.get_node_id()]
    return {"said": ray.get(host.answer.remote(), timeout=60), "left_s": deadline_ms / 1000 - time.time()}


if __name__ == "__main__":
    sys.exit(main())
