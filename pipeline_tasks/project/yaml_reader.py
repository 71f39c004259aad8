"""project.yaml as data with positions: YAML 1.2 scalars, no tags, no duplicate keys, no bombs."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import yaml

from pipeline_tasks.errors import ConfigError

MAX_FILE_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_VALUES = 20_000
MAX_SHOWN = 10
_TAG = "tag:yaml.org,2002:"

Path_ = tuple[str | int, ...]
Finding = tuple[Path_, str]
_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file the user wrote; line and column count from 1."""

    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ProjectError(ConfigError):
    """A project's files are wrong; `problems` says where and why, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column, p.message)))
        shown = [str(problem) for problem in self.problems[:MAX_SHOWN]]
        if len(self.problems) > MAX_SHOWN:
            shown.append(f"... and {len(self.problems) - MAX_SHOWN} more.")
        super().__init__("\n".join(shown))


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: plain values, and where each path of keys stands in the file."""

    file: str
    value: Any
    positions: dict[Path_, tuple[int, int]]

    def problem(self, path: Path_, message: str) -> Problem:
        """Return a problem at a path, or at its nearest parent that the file has."""
        at = path
        while at not in self.positions and at:
            at = at[:-1]
        line, column = self.positions.get(at, (1, 1))
        return Problem(self.file, line, column, dotted(path), message)


class _Loader(yaml.SafeLoader):
    """Knows the scalars of YAML 1.2's core schema only: `yes`, `1:30` and `2026-01-01` are strings."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def dotted(path: Path_) -> str:
    """Return a path as the user reads it: `sources[0].path`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the file"


def finding(key: str, text: str) -> Finding:
    """Return what is wrong with a key, in words that begin with it."""
    parts = (int(index) if index else name for index, name in _PART.findall(key))
    return tuple(parts), f"{key} {text}"


def shown(value: Any, *, limit: int = 60) -> str:
    """Return a value for an error message, on one line and not too long."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def read_limited(path: Path, *, what: str, advice: str) -> bytes:
    """Return a small file's bytes.

    Raises:
        ProjectError: it does not exist, cannot be read, or is larger than 256 KiB.
    """
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ProjectError([Problem(str(path), 1, 1, "", f"{what} must exist (got no such file). {advice}")]) from None
    except OSError as error:
        message = f"{what} must be a readable file (got {error.strerror}). Check its permissions."
        raise ProjectError([Problem(str(path), 1, 1, "", message)]) from error
    if len(data) > MAX_FILE_BYTES:
        message = f"{what} must be at most {MAX_FILE_BYTES:,} bytes (got more). Data belongs into a source."
        raise ProjectError([Problem(str(path), 1, 1, "", message)])
    return data


def decode_utf8(data: bytes, *, file: str) -> str:
    """Return a file's text.

    Raises:
        ProjectError: the bytes are not UTF-8; the message names line and column.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        message = f"{Path(file).name} must be UTF-8 text (got byte 0x{data[error.start]:02x}). Save it as UTF-8."
        raise ProjectError([Problem(file, line, column, "", message)]) from None


def parse_yaml(data: bytes, *, file: str) -> Document:
    """Return project.yaml's values with the position of each key.

    Raises:
        ProjectError: not UTF-8, not YAML, a tag, a duplicate key, too deep, too many values, NaN or infinity.
    """
    text = decode_utf8(data, file=file)
    try:
        _check_depth(text, file=file)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise ProjectError([_syntax_problem(error, file=file)]) from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        message = f"project.yaml must hold printable text (got {error.reason}). Remove the character."
        raise ProjectError([Problem(file, line, 1, "", message)]) from None
    reader = _Reader(file)
    value = None if node is None else reader.read(node, ())
    return Document(file, value, reader.positions)


def _check_depth(text: str, *, file: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            mark = event.start_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            message = f"project.yaml must nest at most {MAX_DEPTH} levels (got more). Write it flatter."
            raise ProjectError([Problem(file, line, column, "", message)])


def _syntax_problem(error: yaml.MarkedYAMLError, *, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    got = (error.problem or "a syntax error").replace("\n", " ")
    advice = "Indent with spaces, never with tabs." if "\\t" in got else "Check the indentation and the quotes here."
    return Problem(file, line, column, "", f"project.yaml must be YAML (got: {got}). {advice}")


class _Reader:
    """Turns one node graph into plain values; aliases are copied, so their growth is counted."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.positions: dict[Path_, tuple[int, int]] = {}
        self.num_values = 0

    def read(self, node: yaml.Node, path: Path_) -> Any:
        self.num_values += 1
        self.positions.setdefault(path, _position(node))
        if self.num_values > MAX_VALUES or len(path) > MAX_DEPTH:
            message = f"the file must hold at most {MAX_VALUES:,} values (got more). Use fewer aliases."
            raise self._error(node, path, message)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        raise self._error(node, path, f"{dotted(path)} must be plain YAML (got the tag {node.tag}). Remove the tag.")

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not (isinstance(key_node, yaml.ScalarNode) and key_node.tag == f"{_TAG}str"):
                got = shown(getattr(key_node, "value", "a list"))
                message = f"a key of {dotted(path)} must be text (got {got}). Put it into quotes."
                raise self._error(key_node, path, message)
            key = str(key_node.value)
            if key in values:
                here = (*path, key)
                line = self.positions[here][0]
                message = f"{dotted(here)} must stand once (got it again; first on line {line}). Remove one."
                raise self._error(key_node, here, message)
            self.positions[(*path, key)] = _position(key_node)
            values[key] = self.read(value_node, (*path, key))
        return values

    def _scalar(self, node: yaml.ScalarNode, path: Path_) -> Any:
        text = str(node.value)
        kind = node.tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int" and len(text) <= 40:
            return int(text)
        if kind == "float":
            return self._float(node, path)
        if kind == "str":
            return text
        raise self._error(node, path, f"{dotted(path)} must be plain YAML (got {shown(text)} as {node.tag}).")

    def _float(self, node: yaml.ScalarNode, path: Path_) -> float:
        text = str(node.value).lower()
        value = math.nan if ".nan" in text or ".inf" in text else float(text)
        if not math.isfinite(value):
            raise self._error(node, path, f"{dotted(path)} must be a finite number (got {node.value}).")
        return value

    def _error(self, node: yaml.Node, path: Path_, message: str) -> ProjectError:
        line, column = _position(node)
        return ProjectError([Problem(self.file, line, column, dotted(path), message)])


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
