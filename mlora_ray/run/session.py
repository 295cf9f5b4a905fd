"""What the driver holds while the actors of one run work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlora_ray.run.directory import RunDirectory
from mlora_ray.run.interrupt import Interrupt
from mlora_ray.run.options import TrainOptions
from mlora_ray.types import JobSpec

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(slots=True)
class Run:
    """What the driver holds while the actors work."""

    options: TrainOptions
    directory: RunDirectory
    specs: list[JobSpec]
    console: Console
    interrupt: Interrupt
    placement: Any
    started_s: float
    started_at: str
    steps_before: int = 0  # of the run that goes on, all jobs together

    @property
    def resume_command(self) -> str:
        return f"mlora-ray train {self.options.job_file} --out {self.options.out} --resume"

    def say(self, line: str) -> None:
        """One line, as it is: no markup, no wrapping."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
