"""A base's files, before anything of it is loaded: whole safetensors, and the tensors that its config asks for.

transformers fills what a checkpoint lacks with random numbers and says so in a log; we refuse it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlora_ray.errors import Mistake, mistake_in

NAMED = 5  # tensors named in an error; the others are counted
INDEX = "model.safetensors.index.json"
NO_CUSTOM_CODE = "an architecture that transformers has itself: custom code of a model repository is never run"


def file_mistakes(name: str, path: str) -> list[Mistake]:
    """Files that are not whole safetensors (truncated, empty, text in their place), shards that are not there."""
    from safetensors import SafetensorError, safe_open

    found = []
    for file in sorted(Path(path).glob("*.safetensors")):
        try:
            with safe_open(str(file), framework="numpy") as held:
                held.keys()
        except (SafetensorError, OSError) as error:
            what = "text stands in its place" if _is_text(file) else str(error)
            size = file.stat().st_size
            allowed = f"a whole safetensors file: {what} ({size} bytes); download or copy it again"
            found.append(Mistake(file=path, field="base", value=name, allowed=f"{file.name}: {allowed}"))
    return found + _missing_shards(name, path)


def tensor_mistakes(name: str, path: str) -> list[Mistake]:
    """Tensors that the config asks for and the files lack, that have another shape or that nothing takes.

    transformers' own rules decide, on the meta device: names it converts and weights that are tied are no mistake.
    """
    from transformers import AutoModelForCausalLM

    try:
        with _quiet():
            _, info = AutoModelForCausalLM.from_pretrained(
                path,
                device_map="meta",
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise mistake_in(path, "base", name, f"weights that transformers can load: {said}") from error
    return [Mistake(file=path, field="base", value=name, allowed=said) for said in loading_faults(info)]


def loading_faults(info: dict[str, Any]) -> list[str]:
    """What is wrong by transformers' loading info, a sentence a kind."""
    wrong = [f"{key[0]} {tuple(key[1])} instead of {tuple(key[2])}" for key in sorted(info["mismatched_keys"])]
    said = {
        "all weights that config.json asks for; missing, and else filled with random numbers": info["missing_keys"],
        "weights of the shapes that config.json asks for": wrong,
        "a config.json that takes every weight; without a place in it": info["unexpected_keys"],
        "weights that transformers can load": info["error_msgs"],
    }
    return [f"{what}: {_listed(names)}" for what, names in said.items() if names]


def refuse_custom_code(name: str, path: str) -> None:
    """A base whose config points at code of its own repository, for an architecture that transformers lacks."""
    from transformers import CONFIG_MAPPING

    try:
        config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise mistake_in(path, "base", name, f"a config.json that is JSON: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or not kind:
        raise mistake_in(path, "base", name, "a config.json with a model_type that transformers can load")
    if kind not in CONFIG_MAPPING:
        why = NO_CUSTOM_CODE if config.get("auto_map") else "an architecture that the installed transformers has"
        raise mistake_in(path, "base", name, f"{why} (model_type {kind!r})")


def _missing_shards(name: str, path: str) -> list[Mistake]:
    index = Path(path) / INDEX
    if not index.is_file():
        return []
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [Mistake(file=path, field="base", value=name, allowed=f"{INDEX}: JSON with a weight_map")]
    gone = [shard for shard in shards if not (Path(path) / shard).is_file()]
    if not gone:
        return []
    return [Mistake(file=path, field="base", value=name, allowed=f"all files that {INDEX} names: {_listed(gone)}")]


def _is_text(file: Path) -> bool:
    with open(file, "rb") as handle:
        start = handle.read(256)
    return bool(start) and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start)


def _listed(names: Iterable[str]) -> str:
    held = sorted(map(str, names))
    more = f" and {len(held) - NAMED} more" if len(held) > NAMED else ""
    return ", ".join(held[:NAMED]) + more


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of what is missing: it is said as a mistake."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
