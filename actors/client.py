"""A running placement service: its actor's methods with a timeout each, its errors as ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlora_ray.actors.ray_errors import cause_of, one_line
from mlora_ray.errors import MloraError

if TYPE_CHECKING:
    from mlora_ray.config.service_settings import ServiceSettings
    from mlora_ray.types import CrossLosses, CrossRequest, HostInfo, StepReport
    from mlora_ray.types.records import Event, JobRecord
    from mlora_ray.types.service import PolicySnapshot, RunResult, SubmitRequest
    from mlora_ray.types.status import HostStatus, RunStatus

ASK_TIMEOUT_S = 60.0  # a restarted placement actor reads its database and re-adopts its hosts meanwhile
START_TIMEOUT_S = 150.0  # its process starts, and it may wait to see that a killed service is gone
SUBMIT_TIMEOUT_S = 600.0
SAVE_TIMEOUT_S = 900.0
CROSS_TIMEOUT_S = 7200.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.5


class ServiceEnded(MloraError):
    """There is no placement actor any more, and Ray does not restart it."""


class Service:
    """Every method may raise MloraError in one line; InputError where the request is a mistake.

    Ray makes a request again that is lost with a placement actor that dies: each may be made twice.
    """

    def __init__(self, actor: Any, name: str, *, is_private: bool = False) -> None:
        """`is_private`: a service of one run alone, which ends with it."""
        self.name = name
        self.is_private = is_private
        self._actor = actor

    def settings(self, timeout_s: float = ASK_TIMEOUT_S) -> ServiceSettings:
        return self._ask("settings", timeout_s=timeout_s)

    def submit(self, request: SubmitRequest) -> None:
        self._ask("submit", request, timeout_s=SUBMIT_TIMEOUT_S)

    def status(self, names: Sequence[str] = ()) -> RunStatus:
        return self._ask("status", tuple(names))

    def records(self, names: Sequence[str] = ()) -> tuple[JobRecord, ...]:
        return self._ask("records", tuple(names))

    def situation(self) -> PolicySnapshot:
        return self._ask("situation")

    def hosts(self, is_gone_included: bool = False) -> tuple[HostStatus, ...]:
        return self._ask("hosts", is_gone_included)

    def infos(self) -> tuple[HostInfo, ...]:
        """Hosts that have loaded their base."""
        return self._ask("infos")

    def pause(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._ask("pause", tuple(names)))

    def resume(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._ask("resume", tuple(names)))

    def cancel(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._ask("cancel", tuple(names)))

    def drain(self, target: str) -> tuple[str, ...]:
        return tuple(self._ask("drain", target))

    def events(self, after: int = 0, job: str = "", limit: int = 0) -> tuple[Event, ...]:
        return tuple(self._ask("events", after, job, limit))

    def steps(self, job: str, after: int = 0) -> tuple[StepReport, ...]:
        return tuple(self._ask("steps", job, after))

    def save_and_pause(self, names: Sequence[str]) -> RunStatus:
        return self._ask("save_and_pause", tuple(names), timeout_s=SAVE_TIMEOUT_S)

    def result(self, names: Sequence[str]) -> RunResult:
        return self._ask("result", tuple(names))

    def cross_evaluate(
        self, requests: Sequence[CrossRequest], max_rows: int, is_given_up: Callable[[], bool]
    ) -> CrossLosses | None:
        """None when it was given up."""
        import ray

        asked = self._actor.cross_evaluate.remote(list(requests), max_rows)
        until_s = time.monotonic() + CROSS_TIMEOUT_S
        while not ray.wait([asked], timeout=POLL_S)[0]:
            if is_given_up():
                return None
            if time.monotonic() > until_s:
                raise MloraError(f"service {self.name!r} did not answer within {CROSS_TIMEOUT_S:g} s")
        losses: CrossLosses = self._said("cross_evaluate", asked, ASK_TIMEOUT_S)
        return losses

    def stop(self) -> None:
        """End the hosts and the service; what is committed stays where it is."""
        self._ask("stop", STOP_TIMEOUT_S, timeout_s=STOP_TIMEOUT_S + ASK_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """End the placement actor for good, as it is; hosts that it leaves end by themselves."""
        import ray

        ray.kill(self._actor, no_restart=True)

    def _ask(self, method: str, *arguments: Any, timeout_s: float = ASK_TIMEOUT_S) -> Any:
        return self._said(method, getattr(self._actor, method).remote(*arguments), timeout_s)

    def _said(self, method: str, asked: Any, timeout_s: float) -> Any:
        import ray
        from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError, RayTaskError

        try:
            return ray.get(asked, timeout=timeout_s)
        except RayTaskError as error:
            cause = cause_of(error)
            raise cause if isinstance(cause, MloraError) else MloraError(one_line(error)) from error
        except GetTimeoutError as error:
            raise MloraError(f"service {self.name!r} did not answer {method} within {timeout_s:g} s") from error
        except ActorUnavailableError as error:
            raise MloraError(f"service {self.name!r} cannot be reached: {one_line(error)}") from error
        except RayActorError as error:
            raise ServiceEnded(f"service {self.name!r} has ended: {one_line(error)}") from error
        except RayError as error:
            raise MloraError(f"the cluster failed: {one_line(error)}") from error
