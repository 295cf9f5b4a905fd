"""The watcher of spot notices against a metadata service on loopback, and a real Ray that it drains."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mlora_ray.actors.spot_notice import Metadata, leave, watch

AWS = "/latest/meta-data"
GCP = "/computeMetadata/v1/instance"


class Cloud:
    """What the metadata service answers; a path that is not here is a 404, `failures` answers are a 500 first."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.failures = 0
        self.url = ""


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_aws = self.path.startswith(AWS) and self.headers["X-aws-ec2-metadata-token"] == "a-token"
            is_gcp = self.path.startswith(GCP) and self.headers["Metadata-Flavor"] == "Google"
            if not (is_aws or is_gcp):
                return self._say(401, "")
            if made.failures:
                made.failures -= 1
                return self._say(500, "")
            answer = made.answers.get(self.path)
            return self._say(404, "") if answer is None else self._say(200, answer)

        def do_PUT(self) -> None:
            is_right = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self._say(200 if is_right else 400, "a-token")

        def _say(self, code: int, text: str) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()


class Sleeps:
    """`sleep` that only counts, and after `number` calls lets something happen."""

    def __init__(self, number: int, then: object = None) -> None:
        self.number, self.then, self.count = number, then, 0

    def __call__(self, seconds: float) -> None:
        self.count += 1
        assert self.count < 200, "it never ends"
        if self.count == self.number and callable(self.then):
            self.then()


def test_aws_notice_is_passed_on_with_its_time(cloud: Cloud) -> None:
    cloud.answers[f"{AWS}/instance-life-cycle"] = "spot"
    notice = {f"{AWS}/spot/instance-action": '{"action": "terminate", "time": "2026-03-01T10:02:00Z"}'}
    sleep = Sleeps(3, lambda: cloud.answers.update(notice))
    drained: list[float] = []
    assert watch(Metadata(cloud="aws", url=cloud.url), drained.append, sleep, lambda: 0.0)
    assert drained == [1772359320.0]
    assert sleep.count == 3


def test_gcp_notice_is_passed_on(cloud: Cloud) -> None:
    cloud.answers |= {f"{GCP}/scheduling/preemptible": "TRUE", f"{GCP}/preempted": "FALSE"}
    sleep = Sleeps(2, lambda: cloud.answers.update({f"{GCP}/preempted": "TRUE"}))
    drained: list[float] = []
    assert watch(Metadata(cloud="gcp", url=cloud.url), drained.append, sleep, lambda: 100.0)
    assert drained == [130.0]


@pytest.mark.parametrize(("name", "path"), [("aws", f"{AWS}/instance-life-cycle"), ("gcp", "")])
def test_other_machines_are_left_alone(cloud: Cloud, name: str, path: str) -> None:
    cloud.answers |= {path: "on-demand"} if path else {f"{GCP}/scheduling/preemptible": "FALSE"}
    drained: list[float] = []
    assert not watch(Metadata(cloud=name, url=cloud.url), drained.append, Sleeps(0), lambda: 0.0)
    assert drained == []


def test_a_service_that_fails_is_asked_again(cloud: Cloud) -> None:
    cloud.answers[f"{AWS}/instance-life-cycle"] = "spot"
    cloud.answers[f"{AWS}/spot/instance-action"] = '{"action": "stop", "time": "2026-03-01T10:02:00Z"}'
    cloud.failures = 4
    sleep = Sleeps(0)
    tries: list[float] = []

    def drain(deadline_s: float) -> None:
        tries.append(deadline_s)
        if len(tries) == 1:
            raise RuntimeError("Ray is busy")

    assert watch(Metadata(cloud="aws", url=cloud.url), drain, sleep, lambda: 0.0)
    assert len(tries) == 2
    assert sleep.count == 5


def test_a_service_that_is_not_there_ends_it_with_the_error() -> None:
    with pytest.raises(OSError, match="refused"):
        watch(Metadata(cloud="aws", url="http://127.0.0.1:9"), lambda _: None, Sleeps(0), lambda: 0.0)


def test_a_pods_last_words_are_followed_by_the_rest_of_its_time() -> None:
    times = iter([100.0, 103.0])
    drained: list[float] = []
    slept: list[float] = []
    leave(20.0, drained.append, slept.append, lambda: next(times))
    assert (drained, slept) == ([120.0], [17.0])


def test_ray_drains_the_node(head: dict[str, Any]) -> None:
    assert head["drained"]["said"] == "still here"
    assert 100 < head["drained"]["left_s"] <= 300
