"""`submit`: jobs into a running service, which goes on with them when this process has ended."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from typing import TYPE_CHECKING

from mlora_ray.actors.connect import on_cluster
from mlora_ray.config.job_file import read_job_file
from mlora_ray.config.service_settings import ServiceSettings
from mlora_ray.display.console import print_json, say
from mlora_ray.display.numbers import count
from mlora_ray.display.status_table import print_status, status_json
from mlora_ray.display.tables import counted
from mlora_ray.run.interrupt import Interrupt
from mlora_ray.run.new_service import Target
from mlora_ray.run.submit import submit_jobs
from mlora_ray.run.watch import exit_code, watch
from mlora_ray.types import JobState
from mlora_ray.types.exit_codes import EXIT_INTERRUPTED, EXIT_SUCCEEDED

if TYPE_CHECKING:
    from rich.console import Console


def submit(
    job_path: str, target: Target, address: str, command: str, is_waiting: bool, as_json: bool, out: Console
) -> int:
    """Hand the jobs over; with `is_waiting` watch them to their end. Ctrl-C ends the watching only."""
    job_file = read_job_file(job_path)
    with on_cluster(address):
        service, specs = submit_jobs(job_file, target, command, out)
        names = [spec.name for spec in specs]
        storage = service.settings().storage
        if not is_waiting:
            status = service.status(names)
            if as_json:
                print_json({"service": service.name, "storage": storage} | status_json(status))
                return EXIT_SUCCEEDED
            counts = Counter(str(job.state) for job in status.jobs)
            states = counted({str(state): counts[str(state)] for state in JobState})
            say(out, f"submitted {count(len(names), 'job')} to service {service.name!r}: {states}")
            say(out, f"each goes to {storage}/<job>; watch them: {watching_command(service.name, address)}")
            return EXIT_SUCCEEDED
        with Interrupt() as interrupt:
            status = watch(service, names, interrupt, out)
    if as_json:
        print_json({"service": service.name, "storage": storage} | status_json(status))
    else:
        print_status(status, out)
    if any(not job.state.is_final for job in status.jobs):
        say(out, f"the jobs go on without this process; each goes to {storage}/<job>")
        return EXIT_INTERRUPTED
    say(out, f"adapters are in {storage}/<job>")
    return exit_code(status)


def watching_command(service: str, address: str) -> str:
    """What to paste to watch the jobs: of this service, on this cluster, where these are not what is taken anyway."""
    words = ["mlora-ray", "status", "--watch"]
    words += ["--service", service] if service != ServiceSettings().name else []
    words += ["--address", address] if address != os.environ.get("RAY_ADDRESS", "auto") else []
    return shlex.join(words)
