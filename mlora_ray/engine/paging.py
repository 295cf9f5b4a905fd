"""Which adapters are resident and which wait on disk, within the adapter memory.

A resident adapter trains on until it is done; when others wait it makes room after `page_steps` optimizer steps.
Paging moves whole states at step boundaries, so it changes no bit.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mlora_ray.engine.adapter_state import AdapterState
from mlora_ray.engine.engine_job import EngineJob
from mlora_ray.engine.memory_budget import free_unused, is_out_of_memory
from mlora_ray.errors import JobError

_log = logging.getLogger(__name__)


class Pager:
    """Ledger of resident adapters: never more than `capacity_bytes` of states in memory."""

    def __init__(self, capacity_bytes: int, page_dir: str, page_steps: int, device: str) -> None:
        self.capacity_bytes, self.page_steps, self.device = capacity_bytes, page_steps, device
        self.num_page_outs = 0
        self.unreadable: list[EngineJob] = []  # could not be made resident; the engine reports them
        self._given_dir = page_dir
        self._own_dir: tempfile.TemporaryDirectory[str] | None = None
        self._resident: list[EngineJob] = []
        self._pages: dict[EngineJob, Path] = {}
        self._turns = itertools.count(1)

    def admit(self, training: EngineJob, state: AdapterState | None) -> None:
        """Take in a job; a state that it brings stays in memory if there is room."""
        training.turn = next(self._turns)
        training.state = state
        if state is None:
            return
        if self._used() + training.state_bytes <= self.capacity_bytes:
            self._resident.append(training)
        else:
            self._write_page(training)

    def forget(self, training: EngineJob) -> AdapterState | None:
        """Drop a job; returns its state, None if it never started."""
        state = self.fetch(training)
        if training in self._resident:
            self._resident.remove(training)
        page = self._pages.pop(training, None)
        if page is not None:
            page.unlink(missing_ok=True)
        training.state = None
        return state

    def fetch(self, training: EngineJob) -> AdapterState | None:
        """The state from memory or disk, without making it resident; None if it never started."""
        if training.state is not None:
            return training.state
        page = self._pages.get(training)
        return None if page is None else AdapterState.from_arrays(training.layout, load_file(page), self.device)

    def make_resident(self, trainings: list[EngineJob]) -> list[EngineJob]:
        """Bring in as many of `trainings` as fit, longest wait first. Returns those that are resident."""
        waiting = sorted((t for t in trainings if t not in self._resident), key=lambda t: t.turn)
        for training in waiting:
            if not self._make_room(training.state_bytes):
                break
            try:
                training.state = self.fetch(training) or training.fresh_state(self.device)
            except (OSError, SafetensorError, JobError) as error:
                self._drop(training, f"its page cannot be read: {error}")
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                free_unused(torch.device(self.device).type)
                if self._resident:
                    self.capacity_bytes = self._used()  # more than those did not fit
                    break
                self._drop(training, f"quarantined: its state does not fit into memory alone: {error}")
                continue
            training.steps_since_paged_in = 0
            self._resident.append(training)
        self.check_integrity()
        return [t for t in self._resident if t.has_work]

    def _drop(self, training: EngineJob, error: str) -> None:
        training.error = error
        self._pages.pop(training, None)
        self.unreadable.append(training)

    def _make_room(self, num_bytes: int) -> bool:
        """Send out adapters until `num_bytes` fit. A page that cannot be written stays in memory and others wait."""
        while self._used() + num_bytes > self.capacity_bytes and (out := self._evictable()):
            try:
                self._write_page(out)
            except (OSError, SafetensorError) as error:
                _log.warning("event=page_out_failed job=%s error=%r", out.spec.name, str(error))
                return False
            self._resident.remove(out)
            out.turn = next(self._turns)
        return self._used() + num_bytes <= self.capacity_bytes

    def take_unreadable(self) -> list[EngineJob]:
        """Jobs that could not be made resident since the last call."""
        taken, self.unreadable = self.unreadable, []
        return taken

    def check_integrity(self) -> None:
        assert self._used() <= self.capacity_bytes, "resident adapters exceed the adapter memory"
        assert all(t.state is not None for t in self._resident), "a resident adapter has no state"
        assert len(set(self._resident)) == len(self._resident), "an adapter is resident twice"

    def close(self) -> None:
        """Remove the page directory if it is ours."""
        if self._own_dir is not None:
            self._own_dir.cleanup()

    def _used(self) -> int:
        return sum(t.state_bytes for t in self._resident)

    def _evictable(self) -> EngineJob | None:
        """One without work, else the one that has had the longest turn of at least `page_steps`."""
        free = [t for t in self._resident if t.scratch is None]
        idle = [t for t in free if not t.has_work]
        rested = [t for t in free if t.steps_since_paged_in >= self.page_steps]
        return next(iter(idle or sorted(rested, key=lambda t: -t.steps_since_paged_in)), None)

    def _write_page(self, training: EngineJob) -> None:
        assert training.state is not None
        if not self._given_dir and self._own_dir is None:
            self._own_dir = tempfile.TemporaryDirectory(prefix="mlora-pages-")
        folder = Path(self._own_dir.name if self._own_dir else self._given_dir)
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / f"{training.spec.name}.safetensors"
        save_file(training.state.to_arrays(), page)
        self._pages[training] = page
        training.state = None
        self.num_page_outs += 1
