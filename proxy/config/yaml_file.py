"""Reading a settings file: YAML as plain values, with the line of every place in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from proxy.config.problems import ConfigError, Loc, Problem, dotted

_LARGEST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """A settings file as read: its mapping, and the line of each place in it."""

    data: dict[str, Any]
    lines: Mapping[Loc, int]

    def line(self, loc: Loc) -> int | None:
        """The line of `loc`, or of the nearest thing around it that is in the file."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc)


def read(path: Path) -> Document:
    """Read the YAML mapping in `path`. Raises ConfigError."""
    source = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        text = f"cannot be read: {reason}; correct the path or its permissions"
        raise ConfigError(source, [Problem("", text)]) from None
    if len(content) > _LARGEST:
        raise ConfigError(source, [Problem("", "is larger than 1MiB; is it a settings file?")])
    return parse(content, source)


def parse(content: bytes, source: str) -> Document:
    """Read the YAML mapping in `content`; `source` names it in messages. Raises ConfigError."""
    try:
        loader = yaml.SafeLoader(content)
        node = loader.get_single_node()
        walk = _Walk()
        if node is not None:
            walk.visit(node, ())
        data = {} if node is None or walk.problems else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(source, [_syntax(error)]) from None
    except (ValueError, RecursionError) as error:
        # PyYAML lets these through for an impossible date and for bottomless nesting.
        text = f"is not valid YAML: {type(error).__name__}"
        raise ConfigError(source, [Problem("", text)]) from None
    if walk.problems:
        raise ConfigError(source, walk.problems)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        text = "must be a mapping of settings, such as `server: {port: 8080}`"
        raise ConfigError(source, [Problem("", text)])
    return Document(data, walk.lines)


class _Walk:
    """Goes through the nodes once: the line of each place, keys given twice, keys not text."""

    def __init__(self) -> None:
        self.lines: dict[Loc, int] = {}
        self.problems: list[Problem] = []
        self._open: set[int] = set()

    def visit(self, node: yaml.Node, loc: Loc) -> None:
        if id(node) in self._open:
            text = "refers to itself by an alias"
            self.problems.append(Problem(dotted(loc), text, node.start_mark.line + 1))
            return
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, loc)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.lines[(*loc, index)] = item.start_mark.line + 1
                self.visit(item, (*loc, index))
        self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> None:
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _KEY_TAGS:
                self.problems.append(Problem(dotted(loc), "a key must be text; quote it", line))
                continue
            inner = (*loc, key.value)
            if inner in self.lines and key.tag != _MERGE:
                text = f"given twice, first in line {self.lines[inner]}; keep one"
                self.problems.append(Problem(dotted(inner), text, line))
            self.lines[inner] = line
            self.visit(value, inner)


_MERGE: Final = "tag:yaml.org,2002:merge"
_KEY_TAGS: Final = frozenset({"tag:yaml.org,2002:str", _MERGE})


def _syntax(error: yaml.YAMLError) -> Problem:
    """A syntax error in one line, without the snippet PyYAML adds: it may hold a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        text = f"is not valid YAML: {error.problem} (column {mark.column + 1})"
        return Problem("", text, mark.line + 1)
    if isinstance(error, yaml.reader.ReaderError):
        return Problem("", f"is not valid YAML: {error.reason} (position {error.position})")
    return Problem("", "is not valid YAML")
