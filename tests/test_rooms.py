"""The rules between rooms (docs/architecture.md, "Rooms"), kept by reading imports."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mlora_ray"
HEAVY = {"torch", "ray", "transformers", "pandas", "peft", "datasets", "sqlalchemy", "pyarrow"}
MAX_ACTOR_LINES = 150
MAX_HELP_CPU_S = 0.5
# What a policy may not touch: wall clock, randomness, input and output.
IMPURE = {
    "time",
    "datetime",
    "random",
    "secrets",
    "os",
    "io",
    "pathlib",
    "socket",
    "subprocess",
    "threading",
    "logging",
}


class Import(NamedTuple):
    """One imported name: `target` is its full dotted name; `is_lazy` when it stands inside a function."""

    module: str
    target: str
    line: int
    is_lazy: bool

    @property
    def top(self) -> str:
        return self.target.split(".")[0]

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def read_imports(source: str, module: str, is_package: bool = False) -> list[Import]:
    """Every import in `source` but those under `if TYPE_CHECKING`."""
    return list(_walk(ast.parse(source), module, is_package, False))


def _walk(node: ast.AST, module: str, is_package: bool, is_lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(module, alias.name, child.lineno, is_lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            parts = module.split(".")
            kept = parts[: len(parts) - child.level + is_package] if child.level else []
            source = ".".join([*kept, *([child.module] if child.module else [])])
            yield from (Import(module, f"{source}.{alias.name}", child.lineno, is_lazy) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        else:
            inside = is_lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, module, is_package, inside)


def _modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, the linked rooms included."""
    found: dict[str, Path] = {}
    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        for name in files:
            if name.endswith(".py"):
                path = Path(folder) / name
                parts = path.relative_to(ROOT).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()
IMPORTS = {
    name: read_imports(path.read_text(encoding="utf-8"), name, path.name == "__init__.py")
    for name, path in MODULES.items()
}


def _imports_of(*rooms: str) -> list[Import]:
    """Imports of every module that is, or lies under, one of `rooms` (names below mlora_ray)."""
    prefixes = [f"mlora_ray.{room}" for room in rooms]
    return [
        one
        for name, found in IMPORTS.items()
        if any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)
        for one in found
    ]


def _ours(one: Import, *allowed: str) -> bool:
    """True where an import of ours stays within the `allowed` rooms."""
    return any(one.target.startswith(f"mlora_ray.{room}.") or one.target == f"mlora_ray.{room}" for room in allowed)


def _is_standard(one: Import) -> bool:
    return one.top in sys.stdlib_module_names


# Floor by floor, and what a room may import: rooms of lower floors only. `mlora_ray` is the package's own page.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"types", "errors", "clock"}),
    frozenset({"kernels", "policies", "data", "bases", "display"}),
    frozenset({"engine", "config", "store"}),
    frozenset({"prepare", "host", "control", "report", "profiling"}),
    frozenset({"actors", "simulate"}),
    frozenset({"run"}),
    frozenset({"api"}),
    frozenset({"cli", "gateway", "benchmarks"}),
    frozenset({"__main__"}),
)
# Arrows within a floor, or up: each with its reason.
EXCEPTIONS = {
    ("types", "errors"): "what differs between two specs is said as mistakes",
    ("cli", "benchmarks"): "`mlora-ray bench` runs one of them",
}
RAY_ROOMS = {"actors", "gateway", "benchmarks"}


def _arrows() -> dict[tuple[str, str], list[str]]:
    """(room, room it imports) to the imports behind the arrow."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, imports in IMPORTS.items():
        for one in imports:
            pair = (_room(name), _room(one.target))
            if one.top == "mlora_ray" and pair[0] != pair[1] and (PACKAGE / pair[1]).exists() | (pair[1] in FLOORS[0]):
                found.setdefault(pair, []).append(str(one))
    return found


def test_every_room_has_a_floor_and_imports_only_lower_ones() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    rooms = {_room(name) for name in MODULES} - {"mlora_ray"}
    assert rooms == floor.keys()
    wrong = {
        p: i for p, i in _arrows().items() if p[0] != "mlora_ray" and p not in EXCEPTIONS and floor[p[0]] <= floor[p[1]]
    }
    assert wrong == {}
    assert EXCEPTIONS.keys() <= _arrows().keys()


def test_only_the_rooms_of_actors_import_ray() -> None:
    assert [str(i) for n, f in IMPORTS.items() for i in f if i.top == "ray" and _room(n) not in RAY_ROOMS] == []


def test_every_room_says_what_it_is_for() -> None:
    """`__init__.py` of a room: purpose, what it may import, what to read first, in at most ten lines."""
    pages = {p: ast.get_docstring(ast.parse(p.read_text(encoding="utf-8"))) for p in PACKAGE.glob("*/__init__.py")}
    pages |= {p: ast.get_docstring(ast.parse(p.read_text(encoding="utf-8"))) for p in PACKAGE.glob("*/*/__init__.py")}
    assert [str(p.relative_to(ROOT)) for p, page in pages.items() if not page or len(page.splitlines()) > 10] == []


def test_no_two_public_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_vocabulary_imports_the_standard_library_only() -> None:
    """But `types.serialization`, which reads and writes it with pydantic and which nothing in `types` imports."""
    found = [i for i in _imports_of("types", "errors", "clock") if i.module != "mlora_ray.types.serialization"]
    assert [str(i) for i in found if not (_is_standard(i) or _ours(i, "types", "errors"))] == []
    assert [str(i) for i in found if i.target.startswith("mlora_ray.types.serialization")] == []


def test_policies_are_pure() -> None:
    wrong = [
        str(i)
        for i in _imports_of("policies")
        if i.top in IMPURE or not (_is_standard(i) or _ours(i, "types", "policies", "errors"))
    ]
    assert wrong == []
    calls = [
        f"{path.name}:{node.lineno}"
        for name, path in MODULES.items()
        if name.startswith("mlora_ray.policies")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print", "input")
    ]
    assert calls == []


def test_kernels_import_torch_and_nothing_above_them() -> None:
    found = _imports_of("kernels")
    assert [str(i) for i in found if not (_is_standard(i) or i.top in ("torch", "triton") or _ours(i, "kernels"))] == []
    assert [str(i) for i in found if i.top == "triton" and not i.is_lazy and "triton" not in i.module] == []
    assert not (ROOT / "kernels" / "__init__.py").exists(), (
        "kernels/ with an __init__.py can shadow the kernels package"
    )


def test_engine_never_imports_ray_nor_the_database() -> None:
    allowed = ("engine", "kernels", "data", "bases", "types", "errors", "clock")
    found = _imports_of("engine")
    assert [str(i) for i in found if i.top in ("ray", "sqlalchemy")] == []
    assert [str(i) for i in found if i.top == "mlora_ray" and not _ours(i, *allowed)] == []


def test_actors_are_thin() -> None:
    long = {
        path.name: lines
        for path in (ROOT / "actors").glob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_ACTOR_LINES
    }
    assert long == {}


def _remote_uses(source: str) -> list[int]:
    """Lines that name `ray.remote`, as a decorator, a call or an import."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        is_attribute = isinstance(node, ast.Attribute) and node.attr == "remote"
        if is_attribute and isinstance(node.value, ast.Name) and node.value.id == "ray":
            lines.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module == "ray" and any(a.name == "remote" for a in node.names):
            lines.append(node.lineno)
    return lines


def test_ray_remote_is_applied_in_actor_options_only() -> None:
    wrong = {
        name: lines
        for name, path in MODULES.items()
        if name != "mlora_ray.actors.options" and (lines := _remote_uses(path.read_text(encoding="utf-8")))
    }
    assert wrong == {}


def test_simulate_never_imports_actors() -> None:
    assert [str(i) for i in _imports_of("simulate") if i.top == "ray" or _ours(i, "actors")] == []


def test_linked_rooms_are_imported_by_their_package_name() -> None:
    links = {path.name for path in PACKAGE.iterdir() if path.is_symlink()}
    assert links >= {"actors", "policies", "kernels"}
    assert [str(i) for found in IMPORTS.values() for i in found if i.top in links] == []
    assert all(os.readlink(PACKAGE / name) == f"../{name}" for name in links)


def _room(module: str) -> str:
    """`mlora_ray.data.tokenized_rows` is in room `engine`; a module at the package's top is its own room."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def test_no_room_imports_another_rooms_private_name() -> None:
    wrong = [
        str(i)
        for name, found in IMPORTS.items()
        for i in found
        if i.top == "mlora_ray" and _room(name) != _room(i.target)
        for part in i.target.split(".")[1:]
        if part.startswith("_") and not part.startswith("__")
    ]
    assert wrong == []


def _edges() -> dict[str, set[str]]:
    """Module to the modules of ours it imports, lazily or not."""
    edges: dict[str, set[str]] = {}
    for name, found in IMPORTS.items():
        targets = {i.target if i.target in MODULES else i.target.rpartition(".")[0] for i in found}
        edges[name] = (targets & MODULES.keys()) - {name}
    return edges


def find_cycle(edges: dict[str, set[str]]) -> list[str]:
    """One cycle of the graph as a path that ends where it began; empty when there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(edges.get(node, ())):
            if cycle := visit(target, [*path, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for start in sorted(edges) if (cycle := visit(start, []))), [])


def test_imports_have_no_cycles() -> None:
    assert find_cycle(_edges()) == []


def test_rooms_have_no_cycles() -> None:
    rooms: dict[str, set[str]] = {}
    for name, targets in _edges().items():
        rooms.setdefault(_room(name), set()).update(_room(target) for target in targets)
    assert find_cycle({room: targets - {room, "mlora_ray"} for room, targets in rooms.items()}) == []


def test_cli_import_is_light() -> None:
    code = f"import mlora_ray.cli.app, sys; print(sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_help_answers_fast() -> None:
    """CPU seconds, not wall: a busy machine must not fail it. Best of three."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "mlora_ray", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert "train" in done.stdout
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < MAX_HELP_CPU_S


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        ("import ray.util as u", ["ray.util"]),
        ("from ray import remote", ["ray.remote"]),
        ("from . import rows", ["mlora_ray.engine.rows"]),
        ("def f():\n    from mlora_ray.store import database", ["mlora_ray.store.database"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", ["typing.TYPE_CHECKING"]),
    ],
)
def test_the_reader_sees_imports(source: str, targets: list[str]) -> None:
    assert [i.target for i in read_imports(source, "mlora_ray.engine.engine")] == targets


def test_the_reader_sees_remote_and_cycles() -> None:
    assert _remote_uses("import ray\n\n@ray.remote\nclass A: ...\n\n@ray.remote(num_cpus=1)\nclass B: ...") == [3, 6]
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
