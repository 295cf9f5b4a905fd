"""What measurements are made with: CPU seconds, peak memory of this process, the machine and the commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

KERNEL_CACHE = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8192"}
NOTED_ENVIRONMENT = ("OMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "KMP_", "MALLOC_", "LD_PRELOAD")
NOTED_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


class Spent(NamedTuple):
    """Seconds of one measured window."""

    cpu_s: float  # user and system, all threads of this process
    wall_s: float


class Stopwatch:
    """CPU and wall seconds of this process since it was made."""

    def __init__(self) -> None:
        self._cpu_s, self._wall_s = time.process_time(), time.perf_counter()

    def read(self) -> Spent:
        return Spent(time.process_time() - self._cpu_s, time.perf_counter() - self._wall_s)


def peak_bytes() -> int:
    """Largest resident size this process ever had.

    VmHWM, not ru_maxrss: on Linux the latter is inherited through exec from the process that forked us.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def private_bytes() -> int:
    """Memory that only this process holds: what one more such process costs (USS)."""
    return int(psutil.Process().memory_full_info().uss)


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def commit() -> str:
    """Commit of the checkout this file lies in, `+` added when files differ; the version where there is no git."""
    root = Path(__file__).resolve().parents[2]
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        return f"version {_version('mlora-ray')}"
    if head.returncode:
        return f"version {_version('mlora-ray')}"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def machine(threads: int) -> dict[str, Any]:
    """What a figure depends on besides the code."""
    return {
        "cpu": _cpu_name(),
        "flags": [flag for flag in NOTED_FLAGS if flag in _cpu_line("flags").split()],
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "threads": threads,
        "load_1m": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "transformers", "peft", "numpy")},
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(NOTED_ENVIRONMENT)},
    }


def result(threads: int, seed: int, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What every benchmark gives: {command, commit, machine, seed, rows}."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"command": command, "commit": commit(), "machine": machine(threads), "seed": seed, **more, "rows": rows}


def _cpu_line(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), "")


def _cpu_name() -> str:
    """The model's name, with family and model number where the name alone says little."""
    name = _cpu_line("model name") or platform.processor() or platform.machine()
    numbers = [_cpu_line(key) for key in ("vendor_id", "cpu family", "model", "stepping")]
    return f"{name} ({' '.join(n for n in numbers if n)})" if any(numbers) else name


def child_environment(threads: int) -> dict[str, str]:
    """This environment with every BLAS held to `threads` and oneDNN's kernel cache raised, as `load_base` raises it.

    The same for each contestant.
    """
    held = {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {**os.environ, **held, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", **KERNEL_CACHE}


def median(values: list[float]) -> float:
    return float(statistics.median(values))


def spread(values: list[float]) -> float:
    """(largest - smallest) / median."""
    return (max(values) - min(values)) / median(values) if len(values) > 1 else 0.0
