"""`explain`: why a job waits or runs where it does. Asks the service how things are, then looks ahead right here."""

from __future__ import annotations

from mlora_ray.cli.options import AUTO, DEFAULT_SERVICE, AddressOption, JobArgument, JsonLinesOption, ServiceOption
from mlora_ray.cli.output import running_service
from mlora_ray.display.console import console, print_json, say
from mlora_ray.errors import command_line_mistake
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED


def explain(
    job: JobArgument,
    address: AddressOption = AUTO,
    service: ServiceOption = DEFAULT_SERVICE,
    as_json: JsonLinesOption = False,
) -> int:
    """Why a job waits or runs where it does, and when it is expected to start and to end."""
    from mlora_ray.simulate.explain import explain as look_ahead

    with running_service(address, service) as running:
        (status,) = running.status([job]).jobs
        situation, events, settings = running.situation(), running.events(job=job), running.settings()
    try:
        found = look_ahead(status, situation, events, settings.step_times)
    except ValueError as error:
        raise command_line_mistake("policy", situation.policy, f"one that can be loaded: {error}") from error
    if as_json:
        print_json(found)
        return EXIT_SUCCEEDED
    out = console(False)
    for sentence in found["why"]:
        say(out, sentence)
    return EXIT_SUCCEEDED
