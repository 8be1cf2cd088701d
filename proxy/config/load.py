"""File, environment and command line in, one checked `Config` out, or every problem at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from proxy.config import origin
from proxy.config.models import ENDPOINTS_EXAMPLE, Config
from proxy.config.problems import ConfigError, Loc, Problem, dotted, explain
from proxy.config.secret import Sources
from proxy.config.unused import unused
from proxy.config.yaml_file import Document, read

_COMMAND_LINE: Final = 0
"""Instead of a line, for what is not in the file."""


def load(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """The settings in `path`; without one, the bundled `proxy.yaml`.

    `environ` is where `env:NAME` is looked up. `overrides` are settings from the command line by
    their dotted name, `{"server.port": 8081}`; they win over the file. Raises ConfigError.
    """
    source = bundled("proxy.yaml") if path is None else path
    document = _overridden(read(source), overrides or {})
    sources = Sources(environ, source.parent)
    found: list[Problem] = []
    try:
        config = Config.model_validate(document.data, context=sources)
    except ValidationError as error:
        found = [_problem(document, e["loc"], explain(e, Config)) for e in error.errors()]
    found += [_problem(document, loc, text) for loc, text in _across(document.data)]
    if found:
        found.sort(key=lambda problem: problem.line or 0)
        # `from None`: pydantic's own error holds what was in the file.
        raise ConfigError(str(source), found) from None
    notes = (str(Problem(dotted(loc), text)) for loc, text in unused(config))
    config._warnings = (*sources.warnings, *notes)
    return config


def bundled(name: str) -> Path:
    """The file `name` of `config/`: inside an installed package, or beside the source.

    Raises FileNotFoundError.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "_config", package.parent / "config"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{name} is missing from this installation")


def _problem(document: Document, loc: Loc, text: str) -> Problem:
    if loc == ("endpoints",) and text == "missing":
        text += ENDPOINTS_EXAMPLE
    if loc and loc[-1] == "[key]":  # pydantic's word for "the key itself, not what it holds"
        loc = loc[:-1]
    line, where = document.line(loc), dotted(loc)
    if line == _COMMAND_LINE:
        where += ", given on the command line"
    return Problem(where, text, line)


def _overridden(document: Document, overrides: Mapping[str, object]) -> Document:
    data, lines = dict(document.data), dict(document.lines)
    for name, value in overrides.items():
        section, key = name.split(".")
        inner = data.get(section, {})
        if isinstance(inner, dict):  # anything else is reported as a problem of its own
            data[section] = {**inner, key: value}
            lines[(section, key)] = _COMMAND_LINE
    return Document(data, lines)


# --- what no section can check alone: on plain values, so that it is told with all the rest -------


def _across(data: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    yield from _repeated_names(data, "endpoints")
    yield from _repeated_names(data, "routes")
    yield from _unknown_endpoints_and_keys(data)
    yield from _access(data)
    yield from _conversations(data)
    server, admin = _port(data, "server", 8080), _port(data, "admin", 9090)
    if server == admin != 0:
        yield ("admin", "port"), f"found {admin}, the data port too; the two must differ"


def _access(data: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    access, host = data.get("access", "open"), _inner(data, "server").get("host")
    if access == "open" and isinstance(host, str) and origin.is_bindable(host):
        if not origin.is_loopback(host):
            yield (
                ("server", "host"),
                f"{host} is not a loopback address, and with access: open whoever reaches it may"
                " use this proxy. Use 127.0.0.1, or set access: keys",
            )
    elif access == "keys":
        for index, endpoint in _mappings(data, "endpoints"):
            if not endpoint.get("api_key") and not endpoint.get("api_keys"):
                yield (
                    ("endpoints", index),
                    f"endpoint {endpoint.get('name')!r} has no key of its own, and with access:"
                    " keys the caller's never goes there; give it an api_key",
                )
    admin = _inner(data, "admin")
    if admin.get("allow_remote") is True and admin.get("token") is None:
        yield (
            ("admin", "allow_remote"),
            "needs a token beside it, such as file:/path/to/token: without one everybody who"
            " reaches the address would see what this proxy does",
        )


def _conversations(data: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    """What a route cannot do at once: an answer with memories is for one conversation."""
    for index, route in _mappings(data, "routes"):
        if not isinstance(route.get("memory"), dict):
            continue
        if route.get("share") is True:
            text = "cannot go with memory: the same words mean something else in each conversation"
            yield ("routes", index, "share"), text
        if route.get("cache") is not None:
            text = "cannot go with memory: what is remembered makes each answer another"
            yield ("routes", index, "cache"), text


def _repeated_names(data: dict[str, Any], section: str) -> Iterator[tuple[Loc, str]]:
    seen: dict[str, int] = {}
    for index, item in _mappings(data, section):
        name = item.get("name")
        if not isinstance(name, str):
            continue
        if name in seen:
            text = f"{name!r} is also the name of {section}[{seen[name]}]; choose another"
            yield (section, index, "name"), text
        seen.setdefault(name, index)


def _unknown_endpoints_and_keys(data: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    endpoints = {str(item.get("name")): item for _, item in _mappings(data, "endpoints")}
    for route_index, route in _mappings(data, "routes"):
        for index, candidate in _mappings(route, "candidates"):
            loc: Loc = ("routes", route_index, "candidates", index)
            name, group = candidate.get("endpoint"), candidate.get("keys")
            if isinstance(name, str) and name not in endpoints:
                text = f"there is no endpoint {name!r}; known: {', '.join(endpoints) or 'none'}"
                yield (*loc, "endpoint"), text
            elif isinstance(group, str) and name is None:
                text = "needs an endpoint beside it: the one that has these key_groups"
                yield (*loc, "keys"), text
            elif isinstance(group, str) and isinstance(name, str):
                yield from _unknown_group((*loc, "keys"), group, endpoints[name])


def _unknown_group(loc: Loc, group: str, endpoint: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    groups = endpoint.get("key_groups", {})
    if isinstance(groups, dict) and group not in groups:
        known = ", ".join(map(str, groups)) or "none; add key_groups to the endpoint"
        name = endpoint["name"]
        yield loc, f"endpoint {name!r} has no key group {group!r}; known: {known}"


def _mappings(data: dict[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    items = data.get(key)
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield index, item


def _port(data: dict[str, Any], section: str, default: int) -> object:
    return _inner(data, section).get("port", default)


def _inner(data: dict[str, Any], section: str) -> dict[str, Any]:
    inner = data.get(section)
    return inner if isinstance(inner, dict) else {}
