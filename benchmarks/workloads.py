"""What the PEFT benchmark trains: jobs with specs and tokenised rows, in one folder that every contestant reads.

`mixed`   8 jobs, rank {4, 8, 16, 32} x batch {1, 2, 4, 8}, lengths as uneven as the 8 demo tasks make them
`batch1`  16 jobs of batch 1 on the same tasks
`data`    one job for each *.jsonl or *.json under --data, shapes as in `mixed`

Every job takes the same number of optimizer steps, so that the figure is the rate of a group that lives together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlora_ray.data import batch_sampler
from mlora_ray.data.sources import DataFile, RowSettings
from mlora_ray.data.tokenization import prepare_rows
from mlora_ray.data.tokenized_rows import Rows, from_bytes, rows_sha256, to_bytes
from mlora_ray.errors import InputError, Mistake
from mlora_ray.types import BaseSpec, JobSpec, LoraSpec, RowsRef, TrainSpec, serialization

WORKLOADS = ("mixed", "batch1")  # and "data", which --data asks for
# (rank, batch) of job i: every rank and every batch twice in the first eight, no rank tied to one batch.
SHAPES = ((4, 1), (8, 2), (16, 4), (32, 8), (32, 1), (16, 2), (8, 4), (4, 8))
STEPS = {"mixed": 4, "batch1": 8, "data": 3}
NUM_BATCH1_JOBS = 16
MAX_LENGTH = 1024
SEED = 7


class BenchJob(NamedTuple):
    """One job as every contestant gets it."""

    spec: JobSpec
    rows: Rows

    def step_rows(self, step: int) -> list[int]:
        """Rows of optimizer step `step` (0-based): the same for each contestant."""
        cut = batch_sampler.rows_of_step(self.spec.train, self.rows.lengths, step, self.spec.nano_batch_tokens)
        return [row for nano_batch in cut.nano_batches for row in nano_batch]

    def step_tokens(self, step: int) -> int:
        return int(self.rows.lengths[self.step_rows(step)].sum())

    def step_targets(self, step: int) -> int:
        return int(self.rows.num_targets()[self.step_rows(step)].sum())


class Work(NamedTuple):
    """Real tokens (no padding) and targets of the measured steps of a set of jobs."""

    num_tokens: int
    num_targets: int
    num_steps: int


def work_of(jobs: list[BenchJob]) -> Work:
    steps = [(job, step) for job in jobs for step in range(job.spec.total_steps)]
    tokens = sum(job.step_tokens(step) for job, step in steps)
    return Work(tokens, sum(job.step_targets(step) for job, step in steps), len(steps))


def write_workload(folder: Path, workload: str, base: BaseSpec, sources: list[Path], steps: int) -> list[BenchJob]:
    """Tokenise `sources` (JSONL of prompt and completion) and write jobs.jsonl and the rows they name."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    settings = RowSettings(max_length=MAX_LENGTH)
    tokenised = [prepare_rows(DataFile(path=str(source)), tokenizer, settings).rows for source in sources]
    num_jobs = NUM_BATCH1_JOBS if workload == "batch1" else len(sources)
    jobs = []
    for i in range(num_jobs):
        lora_rank, batch_size = SHAPES[i % len(SHAPES)]
        source = sources[i % len(sources)]
        rows = tokenised[i % len(sources)]
        train = TrainSpec(
            batch_size=1 if workload == "batch1" else batch_size,
            max_steps=steps,
            max_length=MAX_LENGTH,
            seed=SEED + i,
        )
        jobs.append(
            _write_job(
                folder, f"{source.name.split('.')[0]}-{i}", base, LoraSpec(r=lora_rank), train, rows, source.name
            )
        )
    write_jobs(folder, jobs)
    return jobs


def write_jobs(folder: Path, jobs: list[BenchJob]) -> None:
    """jobs.jsonl; the rows files that the specs name are there already."""
    text = "".join(serialization.dumps(job.spec) + "\n" for job in jobs)
    (folder / "jobs.jsonl").write_text(text, encoding="utf-8")


def _write_job(
    folder: Path, name: str, base: BaseSpec, lora: LoraSpec, train: TrainSpec, rows: Rows, source: str
) -> BenchJob:
    digest = rows_sha256(rows)
    path = folder / f"{digest}.rows"
    path.write_bytes(to_bytes(rows))
    ref = RowsRef(
        uri=str(path),
        sha256=digest,
        source=source,
        num_rows=rows.num_rows,
        num_tokens=int(rows.offsets[-1]),
        num_target_tokens=int(rows.num_targets().sum()),
        num_truncated=0,
        max_row_tokens=int(rows.lengths.max()),
    )
    total_steps = batch_sampler.total_steps(train, rows.num_rows)
    spec = JobSpec(name=name, base=base, lora=lora, train=train, train_rows=ref, total_steps=total_steps)
    return BenchJob(spec, rows)


def read_workload(folder: Path) -> list[BenchJob]:
    """The jobs that `write_workload` wrote."""
    lines = (folder / "jobs.jsonl").read_text(encoding="utf-8").splitlines()
    specs: list[JobSpec] = [serialization.loads(JobSpec, line) for line in lines]
    return [BenchJob(spec, from_bytes(Path(spec.train_rows.uri).read_bytes())) for spec in specs]


def demo_sources(folder: Path) -> list[Path]:
    """The training rows of the 8 demo tasks, made into `folder` by examples/make_data.py. Raises InputError."""
    import runpy

    script = Path(__file__).resolve().parents[1] / "examples" / "make_data.py"
    if not script.exists():
        allowed = "a checkout of the project, or --data DIR with files of your own"
        raise InputError(
            [Mistake(file="bench peft", field="examples/make_data.py", value=str(script), allowed=allowed)]
        )
    runpy.run_path(str(script))["write_all"](folder, SEED)
    return sorted(folder.rglob("*.train.jsonl"))


def convert_sources(data: Path, folder: Path) -> list[Path]:
    """JSONL of prompt and completion in `folder`, one for each *.json and *.jsonl under `data`. Raises InputError."""
    found = sorted(path for path in data.rglob("*") if path.suffix in (".json", ".jsonl"))
    if not found:
        allowed = "a directory with *.jsonl or *.json files"
        raise InputError([Mistake(file=str(data), field="--data", value="", allowed=allowed)])
    out = []
    for path in found:
        target = folder / f"{path.stem}.jsonl"
        target.write_text("".join(json.dumps(row) + "\n" for row in _read_rows(path)), encoding="utf-8")
        out.append(target)
    return out


# Names under which public task files keep a question and its answer.
_FIELDS = (("input", "target"), ("question", "answer"), ("prompt", "completion"), ("instruction", "output"))


def _read_rows(path: Path) -> Iterator[dict[str, str]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    else:
        held = json.loads(text)
        rows = held["examples"] if isinstance(held, dict) and "examples" in held else held
    for number, row in enumerate(rows, 1):
        names = next(((a, b) for a, b in _FIELDS if a in row and b in row), None)
        if names is None:
            allowed = "one of the pairs " + ", ".join(f"{a}/{b}" for a, b in _FIELDS)
            raise InputError(
                [Mistake(file=str(path), line=number, field="row", value=str(sorted(row)), allowed=allowed)]
            )
        yield {"prompt": str(row[names[0]]), "completion": str(row[names[1]])}
