"""Going on with a run to the same bits: its device, its threads, and a machine that computes as its own did."""

from __future__ import annotations

import dataclasses

from mlora_ray.engine.numerics import differences, machine_facts
from mlora_ray.errors import InputError, Mistake, command_line_mistake
from mlora_ray.run.directory import RunDirectory
from mlora_ray.run.options import TrainOptions


def as_before(options: TrainOptions, directory: RunDirectory) -> TrainOptions:
    """The options with the device and threads of the run that goes on. Raises InputError where bits would change."""
    before = directory.machine()
    if before is None:
        return options
    if options.threads not in (0, before.threads):
        raise command_line_mistake(
            "--threads", str(options.threads), f"{before.threads}, with which this run began, or none"
        )
    if options.device not in ("auto", before.device):
        raise command_line_mistake("--device", options.device, f"{before.device}, on which this run began, or auto")
    if changed := differences(dict(before.facts), machine_facts(before.device)):
        raise InputError([_changed(directory, *one) for one in changed])
    return dataclasses.replace(options, threads=before.threads, device=before.device)


def _changed(directory: RunDirectory, name: str, then: str, now: str) -> Mistake:
    allowed = f"{then}, with which this run began: other bits would come out; use --overwrite to start anew"
    return Mistake(file=str(directory.root), field=f"--resume: {name}", value=now, allowed=allowed)
