"""Runs on a worker machine beside Ray and tells it when the cloud takes the machine back: adapters leave in time.

`python -m mlora_ray.actors.spot_notice --cloud aws` asks the machine's metadata service every two seconds, and ends at
once where the machine is not a spot one. `--leave-in 20`, the last words of a pod, says at once that the machine goes
in 20 seconds and waits so long. Placement sees the draining node and moves what is on it; see docs/operations.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar

METADATA = {"aws": "http://169.254.169.254", "gcp": "http://169.254.169.254"}
POLL_S = 2.0
ANSWER_S = 5.0
AWS_TOKEN_S = 21600
GCP_NOTICE_S = 30.0
GCP_HEADERS = {"Metadata-Flavor": "Google"}
START_ATTEMPTS = 30  # the network of a machine that has just started may need a minute
DRAIN_ATTEMPTS = 5

Answer = TypeVar("Answer")
log = logging.getLogger("spot_notice")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The metadata service of one cloud at `url`."""

    cloud: str  # aws | gcp
    url: str

    def is_spot(self) -> bool:
        """Raises OSError when the service does not answer."""
        if self.cloud == "aws":
            return self._aws("instance-life-cycle") == "spot"
        return self._get("/computeMetadata/v1/instance/scheduling/preemptible", GCP_HEADERS).upper() == "TRUE"

    def leaves_at_s(self, now_s: float) -> float | None:
        """When the machine will be taken, as seconds since 1970; None while nobody says so. Raises OSError."""
        if self.cloud == "aws":
            notice = self._aws("spot/instance-action")
            return datetime.fromisoformat(json.loads(notice)["time"]).timestamp() if notice else None
        is_preempted = self._get("/computeMetadata/v1/instance/preempted", GCP_HEADERS).upper() == "TRUE"
        return now_s + GCP_NOTICE_S if is_preempted else None

    def _aws(self, path: str) -> str:
        """Empty where there is no such entry."""
        seconds = {"X-aws-ec2-metadata-token-ttl-seconds": str(AWS_TOKEN_S)}
        token = self._get("/latest/api/token", seconds, method="PUT")
        return self._get(f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": token})

    def _get(self, path: str, headers: dict[str, str], method: str = "GET") -> str:
        request = urllib.request.Request(self.url + path, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return str(answer.read().decode()).strip()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return ""
            raise


def watch(
    metadata: Metadata, drain: Callable[[float], None], sleep: Callable[[float], None], clock: Callable[[], float]
) -> bool:
    """Until a notice has come and `drain(deadline)` has told Ray: True. False where the machine is not a spot one."""
    if not _retried(metadata.is_spot, START_ATTEMPTS, sleep):
        log.info("event=not_a_spot_machine cloud=%s", metadata.cloud)
        return False
    while True:
        try:
            leaves_at_s = metadata.leaves_at_s(clock())
        except (OSError, ValueError, KeyError) as error:  # the next poll follows
            log.warning("event=metadata_failed error=%r", error)
            leaves_at_s = None
        if leaves_at_s is not None:
            log.warning("event=spot_notice seconds_left=%.0f", leaves_at_s - clock())
            _retried(partial(drain, leaves_at_s), DRAIN_ATTEMPTS, sleep)
            return True
        sleep(POLL_S)


def leave(
    seconds: float, drain: Callable[[float], None], sleep: Callable[[float], None], clock: Callable[[], float]
) -> None:
    """Tell Ray that the machine goes in `seconds`, and wait so long: Ray ends a drained node once it is empty."""
    deadline_s = clock() + seconds
    _retried(partial(drain, deadline_s), DRAIN_ATTEMPTS, sleep)
    sleep(max(0.0, deadline_s - clock()))


def _retried(call: Callable[[], Answer], attempts: int, sleep: Callable[[float], None]) -> Answer:
    """Raises what the last attempt raised."""
    for attempt in range(1, attempts):
        try:
            return call()
        except (OSError, RuntimeError) as error:
            log.warning("event=retried attempt=%d error=%r", attempt, error)
            sleep(POLL_S)
    return call()


def drain_this_node(deadline_s: float, address: str = "auto") -> None:
    """Tell Ray that the node of this machine is taken at `deadline_s`. Raises RuntimeError when Ray refuses."""
    import ray
    from ray.core.generated import autoscaler_pb2

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        context = ray.get_runtime_context()
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client = ray._raylet.GcsClient(address=context.gcs_address)
        is_accepted, why = client.drain_node(context.get_node_id(), reason, "spot notice", int(deadline_s * 1000))
        if not is_accepted:
            raise RuntimeError(f"Ray does not drain node {context.get_node_id()}: {why}")
    finally:
        ray.shutdown()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m mlora_ray.actors.spot_notice", description=__doc__)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--cloud", choices=sorted(METADATA))
    way.add_argument("--leave-in", type=float, metavar="SECONDS")
    parser.add_argument("--metadata-url", default="", help="for tests: another address of the metadata service")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.leave_in is not None:
        leave(options.leave_in, drain_this_node, time.sleep, time.time)
        return 0
    metadata = Metadata(cloud=options.cloud, url=options.metadata_url or METADATA[options.cloud])
    watch(metadata, drain_this_node, time.sleep, time.time)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
