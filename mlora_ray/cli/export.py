"""`export`: an adapter out of the storage, as a folder that PEFT loads; its hash is compared with the record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlora_ray.actors.connect import find_service, on_cluster
from mlora_ray.display.console import print_json, say
from mlora_ray.errors import command_line_mistake
from mlora_ray.run.export import export_bundle, export_finished
from mlora_ray.types import JobState
from mlora_ray.types.exit_codes import EXIT_SUCCEEDED

if TYPE_CHECKING:
    from rich.console import Console


def export(job: str, to: str, address: str, service_name: str, is_latest: bool, as_json: bool, out: Console) -> int:
    """The finished adapter; with `is_latest` the last committed one of a job that has not ended."""
    _check_free(to)
    with on_cluster(address):
        service = find_service(service_name)
        service.status((job,))  # an unknown job is a mistake
        (record,) = service.records((job,))
        storage = service.settings().storage
    if record.state is JobState.SUCCEEDED:
        sha256 = export_finished(record, f"{storage}/{job}", to)
    elif is_latest:
        sha256 = export_bundle(record, to)
    else:
        last = (
            f"--latest exports its last committed step, {record.step}"
            if record.bundle_uri
            else "nothing is committed yet"
        )
        raise command_line_mistake("job to export", job, f"one that has SUCCEEDED; it is {record.state}; {last}")
    answer = {"job": job, "to": to, "step": record.step, "weights_sha256": sha256}
    if as_json:
        print_json(answer)
    else:
        say(out, f"{job}: step {record.step:,} of {record.spec.total_steps:,}, sha256 {sha256[:12]}, in {to}")
    return EXIT_SUCCEEDED


def _check_free(to: str) -> None:
    """Raises InputError when there is something at `to` already."""
    path = Path(to)
    if "://" in to or not path.exists():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise command_line_mistake("--to", to, "a new or empty directory, or a URL")
