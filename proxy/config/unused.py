"""Settings that are not wrong and have no effect: told at start, never refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from proxy.config.models import Config
from proxy.config.problems import Loc, dotted
from proxy.config.routes import Candidate, Match, RouteRule, StreamSettings, Timeouts
from proxy.config.units import DURATION, Quantity

Note = tuple[Loc, str]
"""Where a setting has no effect; that it has none, why, and what to do."""


def unused(config: Config) -> Iterator[Note]:
    """What has no effect, also of what a route inherits; the top level's own is told once."""
    top = tuple(_of_waiting(config.timeouts, config.stream, config.commit))
    yield from top
    if config.metrics.folder is not None and not config.metrics.enabled:
        text = "has no effect, since enabled is false; leave one of the two out"
        yield ("metrics", "folder"), text
    yield from _of_files(config)
    first: int | None = None
    for index, rule in enumerate(config.routes):
        place = ("routes", index)
        if first is not None:
            text = f"is never reached, since routes[{first}] takes every request"
            yield place, f"{text}; move it before that one, or give that one a match"
        elif rule.match == Match():
            first = index
        yield from (
            ((*place, *loc), text)
            for loc, text in _of_route(config, rule)
            if (loc, text) not in top
        )


def _of_route(config: Config, rule: RouteRule) -> Iterator[Note]:
    if rule.match.key and config.access == "open":
        text = "never matches, since with access: open nobody has a key of this proxy"
        yield ("match", "key"), f"{text}; remove it, or set access: keys"
    stream = rule.stream or config.stream
    yield from _of_waiting(rule.timeouts or config.timeouts, stream, rule.commit or config.commit)
    if rule.match.stream is False:
        yield from _of_whole_answers(rule, stream)
    if (
        rule.responses
        and not rule.responses.store
        and "retention" in rule.responses.model_fields_set
    ):
        text = "has no effect, since nothing is stored without a store"
        yield ("responses", "retention"), f"{text}; name one, or remove it"
    yield from _repeated(rule.candidates)


def _of_files(config: Config) -> Iterator[Note]:
    """One SQLite file is not for keys, for memories and for answers at once."""
    named: dict[Path, tuple[str, Loc]] = {}
    if config.state is not None and config.state.kind == "sqlite":
        named[config.state.path] = "state", ("state",)
    for index, rule in enumerate(config.routes):
        stores = {
            "memory": rule.memory and rule.memory.store,
            "cache": rule.cache and rule.cache.store,
            "responses": rule.responses and rule.responses.store,
        }
        for part, store in stores.items():
            if not store or not store.url.startswith("sqlite:"):
                continue
            place: Loc = ("routes", index, part, "store")
            kind = "memory" if part == "memory" else "answers"
            theirs, where = named.setdefault(store.path, (kind, place))
            if theirs != kind:
                text = f"cannot be used, since {dotted(where)} names this file for something else"
                yield place, f"{text}; name another one"


def _of_waiting(timeouts: Timeouts, stream: StreamSettings, commit: str) -> Iterator[Note]:
    if timeouts.first_token is not None and timeouts.first_token > timeouts.total:
        first_token, total = map(Quantity(DURATION).text, (timeouts.first_token, timeouts.total))
        text = f"has no effect, since {first_token} is more than total, {total}"
        yield ("timeouts", "first_token"), f"{text}; lower it or raise total"
    if commit == "early" and not stream.heartbeat:
        text = (
            "early has no effect while stream.heartbeat is 0, since a heartbeat brings the status"
        )
        yield ("commit",), f"{text}; set one, or commit: late"


def _of_whole_answers(rule: RouteRule, stream: StreamSettings) -> Iterator[Note]:
    """Of a route that takes no stream."""
    if rule.share:
        text = "has no effect, since only streams are shared and match takes none; remove one"
        yield ("share",), text
    if rule.hedge not in (None, "off") and not stream.upgrade:
        text = "has no effect, since only streams are hedged and match takes none"
        yield ("hedge",), f"{text}; set stream.upgrade: true, or hedge: off"


def _repeated(candidates: tuple[Candidate, ...]) -> Iterator[Note]:
    for index, candidate in enumerate(candidates):
        same = candidates.index(candidate)
        if same != index:
            text = f"has no effect, since candidates[{same}] is the same; remove one"
            yield ("candidates", index), text
