"""The fused CPU kernels of native.cpp: compiled once for this machine's processor, called through ctypes.

Without a C++ compiler, on a GPU, or with MLORA_NATIVE=0, `library()` is None and the torch paths are used. They
agree within rounding but not bit for bit, so which of the two ran is recorded in job.json and must stay the same.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = (
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-fno-math-errno", "-fno-trapping-math"),
    *("--param", "vect-max-peeling-for-alignment=0", "-fopenmp", "-fPIC"),
)
COMPILE_LIMIT_S = 120

_log = logging.getLogger(__name__)


class Native:
    """Typed calls into the library; every tensor is contiguous, on the CPU, bf16 or fp32 alike."""

    def __init__(self, path: Path) -> None:
        self._lib = ctypes.CDLL(str(path))

    def call(self, name: str, dtype: torch.dtype, *args: Tensor | int | float | None) -> None:
        """Run kernel `name` for `dtype`; tensors go as pointers, ints as int64, floats as float, threads last."""
        function = _typed(self._lib, f"{name}_{'bf16' if dtype == torch.bfloat16 else 'float'}", _shape(args))
        function(*(a.data_ptr() if isinstance(a, Tensor) else a for a in args), torch.get_num_threads())


@functools.cache
def library() -> Native | None:
    """The compiled kernels, or None where they cannot be had (said once in the log)."""
    if os.environ.get("MLORA_NATIVE", "1") == "0":
        return None
    try:
        _share_openmp()
        return Native(_compiled())
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("event=native_kernels_off reason=%r", str(error))
        return None


def for_tensor(x: Tensor) -> Native | None:
    """The library if it can work on a tensor like `x`."""
    if x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float32):
        return None
    return library()


def _compiled() -> Path:
    """Path of the shared library, built if this source, compiler and processor have none yet. Raises OSError."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise OSError("no C++ compiler (g++ or clang++) found")
    version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, timeout=30).stdout
    key = hashlib.sha256("|".join([SOURCE.read_text(), *FLAGS, version, _processor()]).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("MLORA_RAY_HOME") or Path.home() / ".cache" / "mlora_ray") / "kernels"
    built = folder / f"native-{key}.so"
    if built.exists():
        return built
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        obj, out = Path(scratch, "native.o"), Path(scratch, "native.so")
        # Linked without -fopenmp: torch's own OpenMP is used, a second one would fight it for the cores.
        commands: list[list[str]] = [[*FLAGS, "-c", str(SOURCE), "-o", str(obj)], ["-shared", str(obj), "-o", str(out)]]
        for command in commands:
            ran = subprocess.run([compiler, *command], capture_output=True, text=True, timeout=COMPILE_LIMIT_S)
            if ran.returncode:
                raise OSError(f"{compiler} failed: {ran.stderr.strip().splitlines()[-1:]}")
        os.replace(out, built)
    return built


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "|".join(next((x for x in lines if x.startswith(k)), "") for k in ("model name", "flags", "Features"))


def _share_openmp() -> None:
    """Make the OpenMP that torch has loaded visible to the library."""
    bundled = sorted(Path(torch.__file__).with_name("lib").glob("libgomp*.so*"))
    ctypes.CDLL(str(bundled[0]) if bundled else "libgomp.so.1", mode=ctypes.RTLD_GLOBAL)


def _shape(args: tuple) -> str:
    return "".join("f" if isinstance(a, float) else "i" if isinstance(a, int) else "p" for a in args)


@functools.cache
def _typed(lib: ctypes.CDLL, name: str, shape: str):
    kinds = {"f": ctypes.c_float, "i": ctypes.c_int64, "p": ctypes.c_void_p}
    function = getattr(lib, name)
    function.argtypes = [*(kinds[c] for c in shape), ctypes.c_int64]
    function.restype = None
    return function
