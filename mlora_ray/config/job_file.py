"""The job file: YAML checked by pydantic at the edge, frozen dataclasses inside. All mistakes come at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mlora_ray.config.data_fields import read_sources
from mlora_ray.config.field_reader import FieldReader, names_of, show_value
from mlora_ray.config.job_fields import JOB_FIELDS, JOB_ONLY, SYNONYMS, FileFields, JobFields, JobOnlyFields
from mlora_ray.config.job_meaning import RelativeSteps, from_defaults, meaning, schedule, wrong_together
from mlora_ray.config.peft_trl_fields import FIELDS, Harmless, Taken, is_harmless
from mlora_ray.config.schedule_fields import SCHEDULE_KWARGS
from mlora_ray.config.yaml_lines import Document, KeyPath, Value, dotted, read_yaml
from mlora_ray.data.sources import DROP, TURNS, DataFile, RowSettings
from mlora_ray.errors import InputError, Mistake
from mlora_ray.types import BaseSpec, LoraSpec, TrainSpec
from mlora_ray.types.storage_layout import STORAGE_FOLDER

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
RESERVED_NAMES = ("summary.json", "report.html", STORAGE_FOLDER)
LORA_NAMES = tuple(f.name for f in fields(LoraSpec))
TRAIN_NAMES = tuple(f.name for f in fields(TrainSpec))
FILE_FIELDS = (*names_of(FileFields), "defaults", "jobs")


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
    relative_steps: RelativeSteps = field(default_factory=dict)
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
        self.fields = FieldReader(path, document, mistakes, SYNONYMS, known=tuple(FIELDS))
        self.dtype, self.seed = BaseSpec(name="", path="").dtype, TrainSpec().seed
        self.default_lines: dict[str, int] = {}

    def read(self) -> JobFile:
        top = self.document.value
        if not isinstance(top, dict):
            self.fields.add((), "job file", "" if top is None else show_value(top), "a mapping with base and jobs")
            raise InputError(self.fields.mistakes)
        file = self._top(top)
        self.dtype, self.seed = file.get("dtype", self.dtype), file.get("seed", self.seed)
        jobs = top.get("jobs")
        if not isinstance(jobs, list) or not jobs:
            self.fields.add(("jobs",), "jobs", "" if not jobs else show_value(jobs), "a list of at least one job")
            jobs = []
        named: list[tuple[KeyPath, Value]]
        named = [(("jobs", i), job["name"]) for i, job in enumerate(jobs) if isinstance(job, dict) and "name" in job]
        self.fields.name_jobs({at: name for at, name in named if isinstance(name, str)})
        written = {} if top.get("defaults") is None else top["defaults"]
        defaults = self._fields_of(written, ("defaults",), JOB_FIELDS)
        self.default_lines = self._lines(written, ("defaults",)) if isinstance(written, dict) else {}
        entries = [self._job(job, ("jobs", i), defaults) for i, job in enumerate(jobs)]
        self._check_names(named)
        return JobFile(
            path=str(self.path),
            base=file.get("base", ""),
            dtype=self.dtype,
            seed=self.seed,
            jobs=tuple(e for e in entries if e is not None),
            base_line=self.document.line(("base",)),
            mistakes=tuple(sorted(self.fields.mistakes, key=lambda m: m.line)),
        )

    def _top(self, top: dict[str, Value]) -> dict[str, Any]:
        """The file's own fields; one of a job that stands here is told where it belongs."""
        misplaced = [name for name in top if name not in FILE_FIELDS and (name in JOB_FIELDS or name in FIELDS)]
        where = "a field of a job; it stands in defaults or jobs"
        for name in misplaced:
            self.fields.add((name,), name, show_value(top[name]), where, verb="is")
        own = _without(top, "jobs", "defaults", *misplaced)
        return self.fields.validated(FileFields, own, (), also=("jobs", "defaults"))

    def _job(self, value: Value, at: KeyPath, defaults: dict[str, Any]) -> JobFileEntry | None:
        before = len(self.fields.mistakes)
        own = self._fields_of(value, at, (*JOB_FIELDS, *JOB_ONLY))
        if not isinstance(value, dict):
            return None
        only = self.fields.validated(JobOnlyFields, {k: v for k, v in value.items() if k in JOB_ONLY}, at)
        held = {"seed": self.seed} | from_defaults(defaults, own) | own
        files = {which: self._files(only.get(which), (*at, which), held) for which in only if which != "name"}
        self._check_together(held, at, inherited=defaults.keys() - own.keys())
        if len(self.fields.mistakes) > before:
            return None
        decided, relative_steps = meaning(held)
        placing = {k: held[k] for k in ("tenant", "priority", "device_type") if k in held}
        train = TrainSpec(**{k: v for k, v in decided.items() if k in TRAIN_NAMES})
        return JobFileEntry(
            name=only["name"],
            line=self.document.line(at),
            lora=LoraSpec(**{k: v for k, v in decided.items() if k in LORA_NAMES}),
            train=train,
            train_files=files["train"],
            eval_files=files.get("eval", ()),
            rows=RowSettings(
                max_length=train.max_length,
                completion_only_loss=train.completion_only_loss,
                assistant_only_loss=held.get("assistant_only_loss", TURNS),
                overlong=held.get("overlong", DROP),
            ),
            deadline_at_s=held.get("deadline"),
            relative_steps=relative_steps,
            field_lines=self.default_lines | self._lines(value, at),
            **placing,
        )

    def _check_together(self, held: dict[str, Any], at: KeyPath, inherited: Set[str]) -> None:
        """Fields that do not fit one another; one of `inherited` is said where the defaults have it."""
        name = "lr_scheduler_kwargs"
        place = (*(("defaults",) if name in inherited else at), name)
        held[name] = self.fields.validated(SCHEDULE_KWARGS[schedule(held)], held.get(name, {}), place)
        for wrong in wrong_together(held):
            place = ("defaults", wrong.field) if wrong.field in inherited else (*at, wrong.field)
            self.fields.add(place, dotted((*place, *wrong.below)), wrong.value, wrong.allowed)

    def _lines(self, names: Iterable[str], at: KeyPath) -> dict[str, int]:
        """The line of each field right below `at`, by our name."""
        known = {name: FIELDS.get(name) for name in names}
        return {
            theirs.ours if isinstance(theirs, Taken) else name: self.document.line((*at, name))
            for name, theirs in known.items()
        }

    def _fields_of(self, value: Value, at: KeyPath, allowed: tuple[str, ...]) -> dict[str, Any]:
        """The job fields of one mapping, checked and in the form of types.py. Adds mistakes.

        Beside TRL's `num_train_epochs` a `max_steps` wins, as in TRL; beside our `num_epochs` it is a mistake.
        """
        if not isinstance(value, dict):
            self.fields.add(at, dotted(at), show_value(value), "a mapping of fields")
            return {}
        written = self._our_names(value, at, allowed)
        given = {ours: value[name] for ours, name in written.items() if ours in JOB_FIELDS}
        held = self.fields.validated(JobFields, given, at, written=written)
        for one, other in (("num_epochs", "max_steps"), ("warmup_ratio", "warmup_steps")):
            if held.get(one) and held.get(other, 0) > 0 and {one, other} <= value.keys():
                both = f"{held[one]:g} and {held[other]:g}"
                self.fields.add((*at, other), dotted((*at, f"{one}/{other}")), both, "one of the two, not both")
        return held

    def _our_names(self, value: dict[str, Value], at: KeyPath, allowed: tuple[str, ...]) -> dict[str, str]:
        """Our names to those in the file. What is neither ours nor changes nothing is a mistake."""
        written: dict[str, str] = {}
        for name, held in value.items():
            theirs = FIELDS.get(name)
            if isinstance(theirs, Harmless):
                self._check_harmless(theirs, (*at, name), held)
            elif isinstance(theirs, Taken) and held is None and theirs.is_nullable:
                continue
            elif (ours := theirs.ours if theirs else name) not in allowed:
                self._add_unknown((*at, name), name, held, allowed)
            elif ours in written:
                same = f"left out beside {written[ours]}, which is the same"
                self.fields.add((*at, name), dotted((*at, name)), show_value(held), same)
            else:
                written[ours] = name
        return written

    def _check_harmless(self, theirs: Harmless, at: KeyPath, value: Value) -> None:
        if not is_harmless(theirs, value):
            self.fields.add(at, dotted(at), show_value(value), theirs.allowed())
        elif value is True and self.dtype == "float32" and at[-1] in ("bf16", "bf16_full_eval"):
            self.fields.add(at, dotted(at), "true", "false where dtype, at the top of the file, is float32")

    def _add_unknown(self, at: KeyPath, name: str, value: Value, allowed: tuple[str, ...]) -> None:
        if name not in FILE_FIELDS:
            return self.fields.unknown(at, name, value, allowed)
        self.fields.add(at, dotted(at), show_value(value), "a field of the whole file; it stands at its top", verb="is")

    def _check_names(self, names: list[tuple[KeyPath, Value]]) -> None:
        seen: dict[str, int] = {}
        for at, name in names:
            if not isinstance(name, str):
                continue  # already said
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
