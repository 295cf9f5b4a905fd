"""`train`, `start`, `resume`, `check` and `verify`: the commands of the same names, from Python."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

from mlora_ray.api.callbacks import Callback
from mlora_ray.api.jobs import WHERE, Job, document_of
from mlora_ray.api.runs import Run
from mlora_ray.errors import InputError, Mistake, command_line_mistake
from mlora_ray.types.storage_layout import StorageLayout

if TYPE_CHECKING:
    from mlora_ray.config.job_file import JobFile
    from mlora_ray.run.verify import VerifyResult

    Jobs: TypeAlias = Sequence[Job] | str | Path

JOB_FILE = "jobs.yaml"
FOLDER_PREFIX = "mlora-jobs-"


def train(
    jobs: Jobs,
    base: str = "",
    out: str | Path = "",
    *,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    **options: Any,
) -> Run:
    """Train every job, wait for the end, answer the run; jobs that failed are in `run.failed`.

    `jobs` is a list of `Job`, or a job file's path, which names its base itself. `options` are those of `start`.
    Raises InputError before any training, Interrupted where it was told to stop: then `resume(out)` goes on.

    >>> rows = [{"prompt": "Say hello.", "completion": " Hello!"}] * 8
    >>> jobs = [Job("a", rows, r=4, max_steps=2), Job("b", rows, r=8, max_steps=2)]
    >>> run = train(jobs, "tiny-llama", out, progress=False)
    >>> run["a"].metrics.step.tolist(), run.failed
    ([1, 2], {})
    """
    return start(jobs, base, out, callbacks=callbacks, **options).wait(progress=progress)


def start(
    jobs: Jobs,
    base: str = "",
    out: str | Path = "",
    *,
    dtype: str | None = None,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    max_memory: str = "",
    adapter_memory: str = "",
    token_budget: int = 0,
    threads: int = 0,
    device: str = "auto",
    policy: str = "fifo",
    callbacks: Sequence[Callback] = (),
) -> Run:
    """As `train`, but answers as soon as the jobs are queued: see `Run.progress`, `Run.wait`, `Run.stop`.

    Options are the command's own. Raises InputError with every mistake at once.

    >>> going = start([Job("a", rows, r=4, max_steps=2)], "tiny-llama", other, policy="fifo")
    >>> going.progress().jobs[0].total_steps
    2
    >>> going.wait().is_done
    True
    """
    from mlora_ray.api.drive import Drive
    from mlora_ray.config.sizes import parse_bytes
    from mlora_ray.run.options import TrainOptions

    if not str(out):
        raise command_line_mistake("out", "", "a directory for the adapters")
    with job_file_of(jobs, base, dtype=dtype, seed=seed) as (job_file, inputs):
        options = TrainOptions(
            job_file=job_file.path,
            out=str(Path(out).expanduser()),
            command=f"mlora_ray.train(..., out={str(out)!r})",
            is_resume=resume,
            is_overwrite=overwrite,
            memory_limit_bytes=parse_bytes(max_memory, "max_memory"),
            adapter_memory_bytes=parse_bytes(adapter_memory, "adapter_memory"),
            token_budget=token_budget,
            threads=threads,
            device=device,
            policy=policy,
        )
        drive = Drive(job_file, options, callbacks, inputs)
        with named_as_here(job_file):
            drive.start()
    return Run(Path(options.out).absolute(), [job.name for job in job_file.jobs], drive)


def resume(
    out: str | Path, *, callbacks: Sequence[Callback] = (), progress: bool = True, wait: bool = True, **options: Any
) -> Run:
    """Go on with the run in `out`, to the same bits; of one that has ended, its results. Raises InputError.

    >>> resume(out, progress=False)["a"].sha256 == run["a"].sha256
    True
    """
    run = start(_inputs_of(out) / JOB_FILE, "", out, resume=True, callbacks=callbacks, **options)
    return run.wait(progress=progress) if wait else run


def open_run(out: str | Path) -> Run:
    """The results of a run that has ended, of this or another process. Raises InputError where there is none.

    >>> sorted(open_run(out))
    ['a', 'b']
    """
    from mlora_ray.run.directory import RunDirectory

    folder = Path(out).expanduser().absolute()
    names = RunDirectory(str(folder)).names()
    if not names:
        raise command_line_mistake("out", str(out), "the directory of a run that has trained")
    return Run(folder, names)


def check(jobs: Jobs, base: str = "", *, dtype: str | None = None, seed: int | None = None) -> Mapping[str, Any]:
    """Rows, tokens, steps, memory and time of the jobs. Raises InputError with every mistake. Trains nothing.

    >>> check(jobs, "tiny-llama")["steps"]
    4
    """
    from mlora_ray.prepare.cost_estimate import check_report
    from mlora_ray.prepare.job_specs import prepare

    with job_file_of(jobs, base, dtype=dtype, seed=seed) as (job_file, _), named_as_here(job_file):
        return check_report(prepare(job_file, None))


def verify(adapter_dir: str | Path, *, force: bool = False) -> VerifyResult:
    """Train a finished job again, alone, and compare every step and tensor. Raises InputError, MloraError.

    >>> verify(run["a"].adapter_dir).identical
    True
    """
    from mlora_ray.run.verify import verify as run_verify

    return run_verify(str(adapter_dir), force=force)


@contextlib.contextmanager
def job_file_of(
    jobs: Jobs, base: str, *, dtype: str | None = None, seed: int | None = None
) -> Iterator[tuple[JobFile, Path | None]]:
    """The jobs as a job file, and the folder that holds it with their rows, removed at the end of the block."""
    from mlora_ray.config.job_file import read_job_file

    if isinstance(jobs, str | Path):
        if base or dtype or seed is not None:
            raise command_line_mistake("base", base, "none beside a job file, which names base, dtype and seed itself")
        yield read_job_file(Path(jobs).expanduser()), None
        return
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    try:
        document = document_of(jobs, base, folder, dtype=dtype, seed=seed)
        path = folder / JOB_FILE
        path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
        yield read_job_file(path), folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def named_as_here(job_file: JobFile) -> Iterator[None]:
    """Mistakes of jobs that were written in Python name no file and no line: there is none that a user knows."""
    try:
        yield
    except InputError as error:
        folder = Path(job_file.path).parent
        if not folder.name.startswith(FOLDER_PREFIX):
            raise
        raise InputError([_named(each, folder) for each in error.mistakes]) from error


def _named(mistake: Mistake, folder: Path) -> Mistake:
    """A row keeps its number as the line; `sql.train.jsonl` is the job's `train`."""
    path = Path(mistake.file)
    if path.parent != folder:
        return mistake
    if path.name == JOB_FILE:
        return dataclasses.replace(mistake, file=WHERE, line=0)
    name, which = path.stem.rpartition(".")[::2]
    return dataclasses.replace(mistake, file=f"{which} of job {name!r}")


def _inputs_of(out: str | Path) -> Path:
    return Path(StorageLayout(str(Path(out).expanduser().absolute())).inputs)
