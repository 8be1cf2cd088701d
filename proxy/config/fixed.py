"""What a running proxy cannot change: it is refused by name, and takes a restart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from pydantic import BaseModel

from proxy.config.models import Config
from proxy.config.problems import Problem
from proxy.config.secret import Secret

_FIXED: Final = (
    ("server", "host"),
    ("server", "port"),
    ("server", "workers"),
    ("admin", "host"),
    ("admin", "port"),
    ("admin", "exchanges"),
    ("state",),
    ("log", "format"),
    ("metrics", "enabled"),
    ("metrics", "folder"),
    ("tracing",),
)


class CannotReload(Exception):
    """New settings are not used, and those before them stay. `problems` has every reason."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "; ".join(map(str, self.problems))


def unchangeable(before: Config, after: Config) -> Iterator[Problem]:
    """Each setting in which `after` differs and must not."""
    for path in _FIXED:
        old, new = _at(before, path), _at(after, path)
        if old != new:
            yield Problem(".".join(path), f"needs a restart{_was(old)}")


def _at(config: Config, path: tuple[str, ...]) -> object:
    value: object = config
    for name in path:
        value = getattr(value, name)
    return value


def _was(value: object) -> str:
    """Sections may hold what is nobody's business, and are long."""
    match value:
        case None:
            return " (was not set)"
        case bool():
            return f" (was {str(value).lower()})"
        case BaseModel() | Secret():
            return ""
        case _:
            return f" (was {value})"
