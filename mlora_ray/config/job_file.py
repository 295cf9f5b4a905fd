"""The job file: YAML checked by pydantic at the edge, frozen dataclasses inside. All mistakes come at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from mlora_ray.config.data_fields import read_sources
from mlora_ray.config.field_reader import FieldReader
from mlora_ray.config.job_fields import JOB_FIELDS, SYNONYMS, FileFields, JobFields, JobOnlyFields
from mlora_ray.config.yaml_lines import Document, KeyPath, Value, dotted, read_yaml
from mlora_ray.data.sources import DROP, TURNS, DataFile, RowSettings
from mlora_ray.errors import InputError, Mistake
from mlora_ray.types import LoraSpec, TrainSpec
from mlora_ray.types.storage_layout import STORAGE_FOLDER

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
RESERVED_NAMES = ("summary.json", "report.html", STORAGE_FOLDER)
LORA_NAMES = tuple(f.name for f in fields(LoraSpec))
TRAIN_NAMES = tuple(f.name for f in fields(TrainSpec))
DEFAULT_SEED = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFileEntry:
    """One job as the file says it, defaults filled in."""

    name: str
    line: int
    lora: LoraSpec
    train: TrainSpec
    train_files: tuple[DataFile, ...]
    eval_files: tuple[DataFile, ...] = ()
    rows: RowSettings
    tenant: str = "default"
    priority: int = 0
    deadline_at_s: float | None = None  # seconds since the Unix epoch
    device_type: str = ""  # cpu | cuda; empty: any
    field_lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)  # the job's and defaults'

    def line_of(self, name: str) -> int:
        """The line that sets a field: the job's own, else that of the defaults, else where the job begins."""
        return self.field_lines.get(name, self.line)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """What of a job file is sound, and its mistakes. `base` is empty where that is one of them."""

    path: str
    base: str
    dtype: str
    seed: int
    jobs: tuple[JobFileEntry, ...]
    base_line: int = 0
    mistakes: tuple[Mistake, ...] = ()


def load_job_file(path: str | Path) -> JobFile:
    """The checked job file. Raises InputError with every mistake, each with its line."""
    job_file = read_job_file(path)
    if job_file.mistakes:
        raise InputError(list(job_file.mistakes))
    return job_file


def read_job_file(path: str | Path) -> JobFile:
    """The jobs that are sound, and every mistake of the others. Raises InputError where no field can be read."""
    document, duplicates = read_yaml(Path(path))
    return _JobFileReader(Path(path), document, duplicates).read()


class _JobFileReader:
    """Collects mistakes while it turns the document into a `JobFile`."""

    def __init__(self, path: Path, document: Document, mistakes: list[Mistake]) -> None:
        self.path, self.document = path, document
        self.fields = FieldReader(path, document, mistakes, SYNONYMS)

    def read(self) -> JobFile:
        top = self.document.value
        if not isinstance(top, dict):
            self.fields.add((), "job file", "" if top is None else repr(top)[:60], "a mapping with base and jobs")
            raise InputError(self.fields.mistakes)
        file = self.fields.validated(FileFields, _without(top, "jobs", "defaults"), (), also=("jobs", "defaults"))
        defaults = self._fields_of({} if top.get("defaults") is None else top["defaults"], ("defaults",), JOB_FIELDS)
        seed = file.get("seed", DEFAULT_SEED)
        jobs = top.get("jobs")
        if not isinstance(jobs, list) or not jobs:
            self.fields.add(("jobs",), "jobs", "" if not jobs else repr(jobs)[:60], "a list of at least one job")
            jobs = []
        entries = [self._job(job, ("jobs", i), defaults, seed) for i, job in enumerate(jobs)]
        self._check_names([(("jobs", i), job.get("name")) for i, job in enumerate(jobs) if isinstance(job, dict)])
        return JobFile(
            path=str(self.path),
            base=file.get("base", ""),
            dtype=file.get("dtype", "bfloat16"),
            seed=seed,
            jobs=tuple(e for e in entries if e is not None),
            base_line=self.document.line(("base",)),
            mistakes=tuple(sorted(self.fields.mistakes, key=lambda m: m.line)),
        )

    def _job(self, value: Value, at: KeyPath, defaults: dict, seed: int) -> JobFileEntry | None:
        before = len(self.fields.mistakes)
        allowed = (*JOB_FIELDS, *JobOnlyFields.model_fields)
        own = self._fields_of(value, at, allowed)
        if not isinstance(value, dict):
            return None
        only = self.fields.validated(
            JobOnlyFields, {k: v for k, v in value.items() if k in JobOnlyFields.model_fields}, at
        )
        held = {"seed": seed} | _without_other_length(defaults, own) | own
        files = {which: self._files(only.get(which), (*at, which), held) for which in only if which != "name"}
        self._check_together(held, at)
        if len(self.fields.mistakes) > before:
            return None
        if held.get("max_steps"):
            held["num_epochs"] = 0.0
        train = TrainSpec(**{k: v for k, v in held.items() if k in TRAIN_NAMES})
        return JobFileEntry(
            name=only["name"],
            line=self.document.line(at),
            lora=LoraSpec(**{k: v for k, v in held.items() if k in LORA_NAMES}),
            train=train,
            train_files=files["train"],
            eval_files=files.get("eval", ()),
            rows=RowSettings(
                max_length=train.max_length,
                completion_only_loss=train.completion_only_loss,
                assistant_only_loss=held.get("assistant_only_loss", TURNS),
                overlong=held.get("overlong", DROP),
            ),
            tenant=held.get("tenant", "default"),
            priority=held.get("priority", 0),
            deadline_at_s=held.get("deadline"),
            device_type=held.get("device_type", ""),
            field_lines=self._lines(defaults, ("defaults",)) | self._lines(value, at),
        )

    def _lines(self, names: Iterable[str], at: KeyPath) -> dict[str, int]:
        """The line of each field right below `at`."""
        return {name: self.document.line((*at, name)) for name in names}

    def _fields_of(self, value: Value, at: KeyPath, allowed: tuple[str, ...]) -> dict:
        """The job fields of one mapping, checked and in the form of types.py. Adds mistakes."""
        if not isinstance(value, dict):
            self.fields.add(at, dotted(at), repr(value)[:60], "a mapping of fields")
            return {}
        for name in value:
            if name not in allowed:
                self.fields.unknown((*at, name), name, value[name], allowed)
        held = self.fields.validated(JobFields, {k: v for k, v in value.items() if k in JOB_FIELDS}, at)
        if held.get("num_epochs") and held.get("max_steps"):
            both = f"{held['num_epochs']:g} and {held['max_steps']}"
            self.fields.add((*at, "max_steps"), dotted((*at, "num_epochs/max_steps")), both, "one of the two, not both")
        return held

    def _check_together(self, held: dict, at: KeyPath) -> None:
        if held.get("init_lora_weights") == "orthogonal":
            ranks = [("r", held.get("r", 8)), *(("rank_pattern", r) for _, r in held.get("rank_pattern", ()))]
            if odd := [(name, r) for name, r in ranks if r % 2]:
                name, rank = odd[0]
                self.fields.add(
                    (*at, "init_lora_weights"), dotted((*at, name)), str(rank), "an even rank, for orthogonal"
                )
        if held.get("num_epochs") == 0 and not held.get("max_steps"):
            self.fields.add((*at, "num_epochs"), dotted((*at, "num_epochs")), "0", "above 0, or max_steps above 0")

    def _check_names(self, names: list[tuple[KeyPath, Value]]) -> None:
        seen: dict[str, int] = {}
        for at, name in names:
            if not isinstance(name, str):
                continue  # missing or not a string: already said
            place, line = (*at, "name"), self.document.line((*at, "name"))
            folded = name.casefold()  # two names that differ in case are one directory on some file systems
            if not PLAIN_NAME.fullmatch(name):
                allowed = "letters, digits, '.', '_' and '-', the first a letter or digit, at most 128"
                self.fields.add(place, dotted(place), name, f"a plain name inside the run's directory: {allowed}")
            elif folded in RESERVED_NAMES:
                self.fields.add(
                    place, dotted(place), name, f"a name but {', '.join(RESERVED_NAMES)}: the run uses these"
                )
            elif folded in seen:
                self.fields.add(place, dotted(place), name, f"a name of its own; line {seen[folded]} has it too")
            seen.setdefault(folded, line)

    def _files(self, value: Value, at: KeyPath, held: dict) -> tuple[DataFile, ...]:
        """Of `train` or `eval`; none for an `eval` of null."""
        if value is None and at[-1] == "eval":
            return ()
        return read_sources(self.fields, self.path.parent.resolve(), value, at, held)


def _without(values: dict[str, Value], *names: str) -> dict[str, Value]:
    return {k: v for k, v in values.items() if k not in names}


def _without_other_length(defaults: dict, own: dict) -> dict:
    """A job's own `max_steps` or `num_epochs` replaces either of them in the defaults."""
    if own.get("max_steps") or own.get("num_epochs"):
        return _without(defaults, "max_steps", "num_epochs")
    return defaults
