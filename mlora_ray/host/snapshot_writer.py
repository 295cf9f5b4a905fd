"""Writing what adapters have become: snapshots are taken between two steps, storage is waited for in another thread."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

from mlora_ray.host.adapter_outputs import write_outputs
from mlora_ray.host.hosted_job import HostedJob
from mlora_ray.store.adapter_files import EvalLosses
from mlora_ray.store.bundles import bundle_uri, write_bundle
from mlora_ray.types import Assignment, BundleReport

if TYPE_CHECKING:
    from mlora_ray.data.tokenized_rows import Rows
    from mlora_ray.engine.adapter_state import AdapterState
    from mlora_ray.engine.engine import Engine


class SnapshotWriter:
    """Begins saves; the result of each is its report, or StorageError."""

    def __init__(self, engine: Engine, bundle_root: str, writer: Executor) -> None:
        self._engine, self._bundle_root, self._writer = engine, bundle_root, writer
        self._base_losses: dict[str, float] = {}

    def begin(self, job: HostedJob) -> Future[BundleReport]:
        """Take a snapshot and start writing it. A finished adapter is evaluated first, and its outputs are written."""
        from mlora_ray.engine.adapter_state import AdapterState

        state = self._engine.state(job.name)
        is_final = self._engine.is_done(job.name) and not job.failure
        arrays = state.to_arrays()
        if is_final:
            self._evaluate(job, state)
            # A copy on the CPU: the adapter's own buffers may be paged out while this is written.
            state = AdapterState.from_arrays(self._engine.layout(job.assignment.spec), arrays)
        num_tokens = job.tokens_before + self._engine.progress(job.name).num_tokens
        return self._writer.submit(
            self._write, job.assignment, state, arrays, num_tokens, tuple(job.steps), is_final, job.losses
        )

    def _write(
        self,
        assignment: Assignment,
        state: AdapterState,
        arrays: dict[str, Any],
        num_tokens: int,
        steps: tuple[Any, ...],
        is_final: bool,
        losses: EvalLosses | None,
    ) -> BundleReport:
        """In the writer's thread. The outputs come first: a committed final bundle means that everything is there."""
        spec, step = assignment.spec, int(arrays["step"][0])
        weights_sha256 = ""
        if is_final:
            weights_sha256 = write_outputs(assignment.out_uri, spec, self._engine.base, state, losses)
        uri = bundle_uri(self._bundle_root, spec.name, step, assignment.epoch)
        meta = {"job": spec.name, "step": step, "epoch": assignment.epoch, "num_tokens": num_tokens}
        return BundleReport(
            job=spec.name,
            epoch=assignment.epoch,
            step=step,
            bundle_uri=uri,
            sha256=write_bundle(uri, arrays, meta),
            steps=steps,
            is_final=is_final,
            weights_sha256=weights_sha256,
        )

    def _evaluate(self, job: HostedJob, state: AdapterState) -> None:
        """The final losses, once; the last step's report carries the adapter's."""
        if job.eval_rows is None or job.losses is not None:
            return
        spec = job.assignment.spec
        base_loss = self._base_loss(spec.eval_rows.sha256 if spec.eval_rows else "", job.eval_rows)
        job.losses = EvalLosses(base_loss, self._engine.evaluate([(state, spec, job.eval_rows)])[0])
        if job.steps:
            job.steps[-1] = dataclasses.replace(job.steps[-1], eval_loss=job.losses.adapter)

    def _base_loss(self, key: str, rows: Rows) -> float:
        if key not in self._base_losses:
            self._base_losses[key] = self._engine.evaluate([(None, None, rows)])[0]
        return self._base_losses[key]
