"""`explain`: why a job waits or runs where it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlora_ray.actors.connect import find_service, on_cluster
from mlora_ray.display.console import print_json, say
from mlora_ray.errors import command_line_mistake
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED

if TYPE_CHECKING:
    from rich.console import Console


def explain(name: str, address: str, service_name: str, as_json: bool, out: Console) -> int:
    """Ask the service how things are, then look ahead in this process."""
    from mlora_ray.simulate.explain import explain as run

    with on_cluster(address):
        service = find_service(service_name)
        (job,) = service.status([name]).jobs
        situation, events, settings = service.situation(), service.events(job=name), service.settings()
    try:
        found = run(job, situation, events, settings.step_times)
    except ValueError as error:
        raise command_line_mistake("policy", situation.policy, f"one that can be loaded: {error}") from error
    if as_json:
        print_json(found)
    else:
        for sentence in found["why"]:
            say(out, sentence)
    return EXIT_SUCCEEDED
