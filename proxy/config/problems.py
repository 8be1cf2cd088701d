"""What is wrong with the settings, in words.

A problem says where (`endpoints[0].base_url`, with its line), what was found, and what to write.
Values are shown only where they cannot be a secret: an unknown key's value never, long text never.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Loc = tuple[str | int, ...]
"""A place in the settings: `("endpoints", 0, "base_url")`."""


class Problem(NamedTuple):
    """One thing wrong with the settings. `where` is empty when it is the file as a whole."""

    where: str
    text: str
    line: int | None = None

    def __str__(self) -> str:
        line = f"line {self.line}" if self.line else ""
        place = ", ".join(part for part in (line, self.where) if part)
        return f"{place}: {self.text}" if place else self.text


class ConfigError(Exception):
    """The settings cannot be used. `problems` has all that is wrong; `str()` is for people."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        super().__init__(source, problems)
        self.source = source
        self.problems = tuple(problems)

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"{self.source}: {count} problem{'s' if count > 1 else ''} in the settings"]
        lines += [f"  {problem}" for problem in self.problems]
        return "\n".join(lines)


def dotted(loc: Loc) -> str:
    """`("endpoints", 0, "base_url")` as `endpoints[0].base_url`."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def explain(error: ErrorDetails, root: type[BaseModel]) -> str:
    """What pydantic found wrong, in plain words. `root` is the model of the whole file."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(error["loc"], root)
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "missing"
    found = shown(error["input"])
    if kind in _WANTED:
        return f"found {found}, must be {_WANTED[kind]}"
    if kind == "literal_error":
        return f"found {found}, must be {context['expected']}"
    for limit, word in (("ge", "at least"), ("le", "at most"), ("gt", "more than")):
        if limit in context:
            return f"found {found}, must be {word} {context[limit]}"
    return f"found {found}: {error['msg']}"


def _unknown(loc: Loc, root: type[BaseModel]) -> str:
    section = _section(loc[:-1], root)
    name = str(loc[-1])
    gone: str | None = getattr(section, "gone", {}).get(name)
    if gone is not None:
        return f"not here; {gone}"
    homes = [
        _ITEMS.get(field, field)
        for field, info in section.model_fields.items()
        if any(name in model.model_fields for model in _models(info.annotation))
    ]
    if homes:
        return f"unknown setting here; belongs to {' or '.join(homes)}"
    close = difflib.get_close_matches(name, section.model_fields, n=1)
    if close:
        return f"unknown setting; did you mean {close[0]}?"
    return f"unknown setting; known here: {', '.join(section.model_fields)}"


_ITEMS: Final = {
    "endpoints": "an endpoint",
    "routes": "a rule in routes",
    "candidates": "a candidate",
}
"""What belongs to the sections of a list belongs to one of them."""


def _section(loc: Loc, root: type[BaseModel]) -> type[BaseModel]:
    """The model that describes the mapping at `loc`."""
    section = root
    for part in loc:
        if isinstance(part, str):
            section = next(_models(section.model_fields[part].annotation))
    return section


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


_WANTED: Final = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text; put quotes around it",
    "path_type": "a path, as text",
    "tuple_type": "a list, such as [a, b]",
    "dict_type": "a mapping, such as {key: value}",
    "model_type": "a mapping, such as {key: value}",
    "model_attributes_type": "a mapping, such as {key: value}",
}


def shown(value: object) -> str:
    """`value` for a message: numbers and short text as they are, the rest only by kind."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return repr(value) if len(value) <= 24 else "long text"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else type(value).__name__
