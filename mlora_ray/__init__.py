"""mlora_ray: many LoRA adapters trained at once on shared frozen bases, each bit for bit as if alone.

    import mlora_ray as mr

    run = mr.train([mr.Job("sql", train="sql.jsonl", lora={"r": 16})], base="smollm2-135m", out="runs/a")
    run["sql"].metrics, run["sql"].sha256, run["sql"].load()

Rooms, from the ground up: `types` facts, `kernels` LoRA on tensors, `policies` who trains where, `data` rows, `bases`,
`display` terminals, `engine` training, `config` what users write, `store` what is durable, `prepare` jobs out of files,
`host` a device's work, `control` the placement service, `report` HTML, `profiling`, `actors` Ray, `simulate`, `run` one
command from start to end, `api` Python, `cli`, `gateway` Ray Serve, `benchmarks`. See docs/architecture.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlora_ray.api.callbacks import Callback
    from mlora_ray.api.cluster import Cluster, connect
    from mlora_ray.api.jobs import Job
    from mlora_ray.api.results import JobResult, load_adapter
    from mlora_ray.api.runs import Interrupted, Run
    from mlora_ray.api.training import check, open_run, resume, start, train, verify
    from mlora_ray.errors import InputError, JobError, Mistake, MloraError, StorageError

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "Cluster",
    "InputError",
    "Interrupted",
    "Job",
    "JobError",
    "JobResult",
    "Mistake",
    "MloraError",
    "Run",
    "StorageError",
    "__version__",
    "check",
    "connect",
    "load_adapter",
    "open_run",
    "resume",
    "start",
    "train",
    "verify",
]

# Nothing is imported before it is asked for: `import mlora_ray` and `mlora-ray --help` stay fast.
_HOMES = {
    "Callback": "api.callbacks",
    "Cluster": "api.cluster",
    "connect": "api.cluster",
    "Job": "api.jobs",
    "JobResult": "api.results",
    "load_adapter": "api.results",
    "Interrupted": "api.runs",
    "Run": "api.runs",
    **dict.fromkeys(("check", "open_run", "resume", "start", "train", "verify"), "api.training"),
    **dict.fromkeys(("InputError", "JobError", "Mistake", "MloraError", "StorageError"), "errors"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
