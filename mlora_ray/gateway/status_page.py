"""A read-only page over HTTP for those who hold no token of Ray: how many jobs are in which state, and no names.

Ray Serve runs it on the cluster of the service: `serve run mlora_ray.gateway.status_page:build service=mlora`, or
deploy/kuberay/rayservice.yaml. GET /healthz says whether the page is there, GET /status how the service is.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlora_ray.errors import MloraError
from mlora_ray.types.status import HostStatus, RunStatus

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

ANSWER_S = 10.0
KEPT_S = 2.0  # an answer stands so long: however many ask, placement is asked once


def build(arguments: dict[str, str]) -> Any:
    """The Serve application. `service` is the name of the placement service, default `mlora`."""
    from ray import serve

    page = serve.deployment(StatusPage, name="status", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=64)
    return page.bind(arguments.get("service", "mlora"))


class StatusPage:
    def __init__(self, service: str) -> None:
        self._service = service
        self._lock = asyncio.Lock()
        self._kept: tuple[int, dict[str, Any]] = (503, {})
        self._asked_at_s = float("-inf")

    async def __call__(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        if request.method != "GET":
            return JSONResponse({"error": "GET only"}, status_code=405)
        if request.url.path == "/healthz":
            return JSONResponse({"page": "ok"})
        if request.url.path != "/status":
            return JSONResponse({"error": "no such page; there are /healthz and /status"}, status_code=404)
        code, content = await self._answer()
        return JSONResponse(content, status_code=code)

    async def _answer(self) -> tuple[int, dict[str, Any]]:
        async with self._lock:
            if time.monotonic() - self._asked_at_s > KEPT_S:
                self._kept = await self._ask()
                self._asked_at_s = time.monotonic()
            return self._kept

    async def _ask(self) -> tuple[int, dict[str, Any]]:
        import ray

        from mlora_ray.actors.options import find_placement

        try:
            placement = await asyncio.to_thread(find_placement, self._service)
            asked = asyncio.gather(placement.status.remote(), placement.hosts.remote())
            status, hosts = await asyncio.wait_for(asked, ANSWER_S)
        except (MloraError, TimeoutError, ray.exceptions.RayError) as error:
            why = str(error) if isinstance(error, MloraError) else f"service {self._service!r} does not answer"
            return 503, {"service": self._service, "error": why}
        return 200, summary(self._service, status, hosts)


def summary(service: str, status: RunStatus, hosts: Sequence[HostStatus]) -> dict[str, Any]:
    """Numbers only: names of jobs may tell what somebody trains."""
    return {
        "service": service,
        "phase": status.phase,
        "jobs": dict(Counter(job.state.value for job in status.jobs)),
        "hosts": dict(Counter(host.state for host in hosts)),
        "tokens_per_s": round(status.tokens_per_s, 1),
        "share_done": round(status.share_done, 4),
        "has_trouble": bool(status.error),
    }
