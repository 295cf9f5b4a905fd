"""YAML with line numbers: plain values, and the line of every key and list item by its path.

Scalars follow YAML 1.2's core schema: `2e-4` is a number, `no` and `2024-01-01` are strings.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import yaml

from mlora_ray.errors import InputError, Mistake

KeyPath = tuple[str | int, ...]
Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]
MAX_NODES = 1_000_000  # aliases of aliases can grow without end


class Document(NamedTuple):
    value: Value
    lines: dict[KeyPath, int]  # 1-based; a path that is not held has its parent's line

    def line(self, path: KeyPath) -> int:
        """Line of `path`, or of the closest parent that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    """The safe loader without YAML 1.1's resolvers."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), [*"-+0123456789"])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    [*"-+.0123456789"],
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])


def read_yaml(path: Path, what: str = "job file") -> tuple[Document, list[Mistake]]:
    """The document, and its duplicate keys. Raises InputError about this `what` where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _fatal(path, what, "", f"a readable YAML file: {error.strerror}", 0) from None
    except UnicodeDecodeError as error:
        raise _fatal(path, "encoding", f"byte {error.start}", "UTF-8 text", 0) from None
    try:
        node = yaml.compose(text, Loader=_Loader)
        reader = _Reader(path)
        value = reader.read(node, ()) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        near = text.splitlines()[line - 1].strip()[:80] if 0 < line <= len(text.splitlines()) else ""
        raise _fatal(path, "yaml", near, f"valid YAML: {error.problem or error.context}", line) from None
    except yaml.YAMLError as error:
        raise _fatal(path, "yaml", "", f"valid YAML: {error}", 0) from None
    except RecursionError:
        raise _fatal(path, "yaml", "", "YAML that is not nested so deep", 0) from None
    return Document(value, reader.lines), reader.duplicates


def dotted(path: KeyPath) -> str:
    """jobs[3].r for ("jobs", 3, "r")."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


def _fatal(path: Path, field: str, value: str, allowed: str, line: int) -> InputError:
    return InputError([Mistake(file=str(path), field=field, value=value, allowed=allowed, line=line)])


class _Reader:
    """Turns nodes into values and remembers their lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[KeyPath, int] = {}
        self.duplicates: list[Mistake] = []
        self._open: list[yaml.Node] = []
        self._num_nodes = 0

    def read(self, node: yaml.Node, at: KeyPath) -> Value:
        line = node.start_mark.line + 1
        self._num_nodes += 1
        if node in self._open or self._num_nodes > MAX_NODES:
            raise _fatal(self.path, dotted(at), "", "a value that does not contain itself", line)
        self.lines.setdefault(at, line)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, at)
        self._open.append(node)
        value: Value
        if isinstance(node, yaml.SequenceNode):
            value = [self.read(item, (*at, i)) for i, item in enumerate(node.value)]
        else:
            assert isinstance(node, yaml.MappingNode)
            value = self._mapping(node, at)
        self._open.pop()
        return value

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, Value]:
        own: dict[str, Value] = {}
        merged: dict[str, Value] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                parts = item.value if isinstance(item, yaml.SequenceNode) else [item]
                for part in parts:
                    held = self.read(part, at)
                    merged = (held if isinstance(held, dict) else {}) | merged
                continue
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            if name in own:
                allowed = f"given once; the first is on line {self.lines[(*at, name)]}"
                field = dotted((*at, name))
                self.duplicates.append(Mistake(file=str(self.path), field=field, value="", allowed=allowed, line=line))
                continue
            self.lines[(*at, name)] = line
            own[name] = self.read(item, (*at, name))
        return merged | own

    def _scalar(self, node: yaml.ScalarNode, at: KeyPath) -> Value:
        text, kind = node.value, node.tag.rsplit(":", 1)[-1]
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        line = node.start_mark.line + 1
        try:
            if kind == "int" and len(text) < 4000:
                return int(text)
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:  # the tag is the user's: !!int "abc"
            raise _fatal(self.path, dotted(at), text, f"a number, as its tag !!{kind} says", line) from None
        if kind in ("str", "int"):
            return text
        raise _fatal(self.path, dotted(at), node.tag, "plain YAML without tags", line)
