"""Settings: what is accepted, what is refused and in which words, and that no secret is shown."""

from __future__ import annotations

import copy
import errno
import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import orjson
import pytest
import trustme
import yaml
from click.testing import CliRunner
from pydantic import BaseModel, ValidationError

from proxy.cli.check import command as check
from proxy.cli.check import schema
from proxy.config import (
    UNTOUCHABLE,
    Admission,
    Attempts,
    Breaker,
    Config,
    ConfigError,
    Endpoint,
    Hedge,
    PoolSettings,
    Secret,
    bundled,
    load,
)
from proxy.config.units import DURATION, SHARE, SIZE, Quantity, Rank, Unit, as_duration

CANARY = "sk-canary.0123456789abcdef"
ENDPOINTS = "endpoints: [{name: cn, base_url: https://open.bigmodel.cn}]\n"

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a settings file and gives its path."""

    def settings(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return settings


def refused(path: Path, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return caught.value


# --- what is read ------------------------------------------------------------------------------


def test_without_a_file_the_bundled_proxy_yaml_forwards_the_callers_key_to_one_endpoint() -> None:
    config = load(None, {})
    (endpoint,) = config.endpoints
    assert endpoint.base_url == "https://open.bigmodel.cn"
    assert endpoint.api_key is None
    assert config.routes == ()


def test_proxy_yaml_says_every_default() -> None:
    """A reader may delete any line of it without changing anything."""
    assert load(None, {}) == Config(
        endpoints=(Endpoint(name="cn", base_url="https://open.bigmodel.cn"),)
    )


def test_proxy_yaml_names_every_setting() -> None:
    text = bundled("proxy.yaml").read_text()
    unnamed = [name for name in _setting_names(Config) if f"{name}:" not in text]
    assert unnamed == []


def _setting_names(model: type[BaseModel]) -> set[str]:
    described = Config.model_json_schema()["$defs"].values()
    return set(model.model_fields).union(*(part.get("properties", {}) for part in described))


@pytest.mark.parametrize("name", ["proxy.yaml", "fast.yaml", "demo.yaml", "conversations.yaml"])
def test_every_bundled_file_loads_without_an_environment_and_without_a_warning(name: str) -> None:
    config = load(bundled(name), {})
    assert config.endpoints
    assert config.warnings == ()


def test_schema_json_is_what_the_models_say() -> None:
    fix = "run: glm-proxy check --schema > config/schema.json"
    assert bundled("schema.json").read_text() == schema() + "\n", fix


def test_the_schema_shows_defaults_with_their_unit() -> None:
    pool = json.loads(schema())["$defs"]["PoolSettings"]["properties"]
    assert pool["idle_timeout"]["default"] == "90s"
    assert pool["http1_bodies_over"]["default"] == "48KiB"
    hedge = json.loads(schema())["$defs"]["Hedge"]["properties"]
    assert (hedge["after"]["default"], hedge["budget"]["default"]) == ("p90", "5%")


def test_the_schema_takes_off_where_a_section_may_be_off() -> None:
    hedge = json.loads(schema())["properties"]["hedge"]
    assert hedge["anyOf"] == [{"$ref": "#/$defs/Hedge"}, {"const": "off"}]


def test_units_become_seconds_and_bytes(write: Write) -> None:
    text = "timeouts: {first_token: 250ms, idle: 1.5s, total: 2m}\nserver: {body_limit: 8MiB}"
    config = load(write(ENDPOINTS + text), {})
    times = config.timeouts.model_dump(exclude_none=True)
    assert times == {"first_token": 0.25, "idle": 1.5, "total": 120.0}
    assert config.server.body_limit == 8 << 20


@pytest.mark.parametrize(
    ("unit", "text", "number"),
    [
        (DURATION, "250ms", 0.25),
        (DURATION, "10s", 10.0),
        (DURATION, "10 s", 10.0),
        (DURATION, "2m", 120.0),
        (DURATION, "24h", 86400.0),
        (DURATION, 0, 0.0),
        (DURATION, "0s", 0.0),
        (SIZE, "512B", 512),
        (SIZE, "0.5KiB", 512),
        (SIZE, "64KiB", 65536),
        (SIZE, "1GiB", 1 << 30),
        (SHARE, "5%", 0.05),
        (SHARE, "0.5 %", 0.005),
        (SHARE, "100%", 1.0),
        (SHARE, "0%", 0.0),
        (SHARE, 0, 0.0),
    ],
)
def test_a_quantity_is_read_in_base_units(unit: Unit, text: object, number: float) -> None:
    assert Quantity(unit, zero=True).read(text, strict=True) == number


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        (DURATION, "10"),
        (DURATION, 10),
        (DURATION, "10 minutes"),
        (DURATION, "1m30s"),
        (DURATION, "-1s"),
        (DURATION, "25h"),
        (DURATION, "infs"),
        (DURATION, "٣s"),
        (DURATION, "1e3s"),
        (DURATION, True),
        (DURATION, False),
        (DURATION, None),
        (SIZE, "64KB"),
        (SIZE, "64k"),
        (SIZE, 65536),
        (SIZE, "1.5B"),
        (SIZE, float("nan")),
        (SHARE, "5"),
        (SHARE, 5),
        (SHARE, 0.05),
        (SHARE, "101%"),
        (SHARE, "-1%"),
        (SHARE, "5s"),
        (SHARE, True),
    ],
)
def test_what_is_not_a_quantity_is_refused(unit: Unit, text: object) -> None:
    with pytest.raises(ValueError, match=r"must|without a unit"):
        Quantity(unit, zero=True).read(text, strict=True)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.1, "100ms"), (90, "90s"), (600, "10m"), (86400, "24h"), (0, 0), (0.001, "1ms"),
        (3600.001, "3600001ms"), (0.0005, "0.5ms"),
    ],
)  # fmt: skip
def test_a_duration_is_shown_in_its_largest_whole_unit(number: float, text: object) -> None:
    assert Quantity(DURATION).text(number) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.05, "5%"), (0.07, "7%"), (0.005, "0.5%"), (1, "100%"), (0, 0)]
)
def test_a_share_is_shown_in_percent(share: float, text: object) -> None:
    assert Quantity(SHARE).text(share) == text


@pytest.mark.parametrize(
    ("text", "share"),
    [("p50", 0.5), ("p90", 0.9), (" p99.5", 0.995), ("p99.999", 0.99999), ("p0.1", 0.001)],
)
def test_a_percentile_is_read_and_shown_as_it_was_written(text: str, share: float) -> None:
    assert Rank().read(text, strict=True) == share
    assert Rank().text(share) == text.strip()


@pytest.mark.parametrize(
    "text", ["90", "p100", "p0", "p", "P90", "p90%", "p9.9999", "p-1", "p٩٠", 90, 0.9, True, None]
)
def test_what_is_not_a_percentile_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a percentile, such as p50"):
        Rank().read(text, strict=True)


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5.0), ("0.5", 0.5), (" 5s ", 5.0), ("250ms", 0.25), ("2 m", 120.0)]
)
def test_outside_of_a_file_a_bare_number_is_seconds(text: str, seconds: float) -> None:
    assert as_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "0", "-1", "1e3", "5 5", "5x", "25h", "٣", "inf"])
def test_what_is_no_duration_is_none_outside_of_a_file_either(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        as_duration(text)


def test_code_that_builds_a_model_gives_plain_seconds_and_shares() -> None:
    assert PoolSettings(ping_interval=0.2).ping_interval == 0.2
    assert Hedge(after=0.95, budget=0.02) == Hedge.model_validate({"after": "p95", "budget": "2%"})


def test_off_without_quotes_is_off_and_not_false(write: Write) -> None:
    text = """
pool: {http2: off}
log: {format: off}
hedge: off
admission: {limit: off}
attempts: {breaker: off}
"""
    config = load(write(ENDPOINTS + text), {})
    assert (config.pool.http2, config.log.format, config.hedge) == ("off", "off", "off")
    assert (config.admission.limit, config.attempts.breaker) == ("off", "off")


def test_a_route_inherits_what_it_leaves_out(write: Write) -> None:
    text = "timeouts: {total: 20s}\nroutes: [{name: a, timeouts: {idle: 5s}}, {name: b}]"
    config = load(write(ENDPOINTS + text), {})
    a, b = (rule.timeouts for rule in config.routes)
    assert a is not None
    assert (a.first_token, a.idle, a.total) == (None, 5.0, 20.0)
    assert b == config.timeouts
    assert config.routes[0].stream == config.stream


PATIENCE = """
attempts: {retries: 5, breaker: {failures: 9, within: 20s}}
admission: {wait: 5s}
hedge: {after: p50, min: 100ms}
commit: early
routes:
  - {name: silent}
  - name: own
    attempts: {retry_budget: 20%, breaker: {failures: 1}}
    admission: {limit: 3}
    hedge: {budget: 1%}
    commit: late
    first_content_target: 5s
    confidence: p75
    share: true
    stream: {upgrade: true}
  - {name: none, hedge: off, attempts: {breaker: off}}
"""


def test_a_route_inherits_what_it_says_nothing_of_in_sections_within_sections_too(
    write: Write,
) -> None:
    config = load(write(ENDPOINTS + PATIENCE), {})
    silent, own, none = config.routes
    assert (silent.attempts, silent.admission) == (config.attempts, config.admission)
    assert (silent.hedge, silent.commit) == (config.hedge, "early")
    assert (silent.first_content_target, silent.confidence, silent.share) == (None, 0.9, False)
    assert own.attempts == Attempts(
        retries=5, retry_budget=0.2, breaker=Breaker(failures=1, within=20)
    )
    assert own.admission == Admission(limit=3, wait=5)
    assert own.hedge == Hedge(after=0.5, min=0.1, budget=0.01)
    assert (own.first_content_target, own.confidence, own.share) == (5, 0.75, True)
    assert (own.commit, own.stream) == ("late", config.stream.model_copy(update={"upgrade": True}))
    assert none.hedge == "off"
    assert none.attempts == Attempts(retries=5, breaker="off")


def test_a_route_hedges_where_the_rest_does_not(write: Write) -> None:
    config = load(write(ENDPOINTS + "routes: [{name: a, hedge: {}}, {name: b}]"), {})
    assert config.hedge == "off"
    assert [rule.hedge for rule in config.routes] == [Hedge(), "off"]


def test_an_endpoints_keys_are_one_or_several_or_a_named_group(write: Write) -> None:
    text = """
endpoints:
  - {name: none, base_url: "https://a.example"}
  - {name: one, base_url: "https://a.example", api_key: "env:A", region: cn}
  - name: many
    base_url: https://a.example
    api_keys: ["env:A", "env:B"]
    key_groups: {batch: ["env:C"]}
routes: [{name: a, candidates: [{endpoint: many, keys: batch}]}]
"""
    config = load(write(text), {"A": "a", "B": "b", "C": "c"})
    none, one, many = config.endpoints
    assert none.keys() == ()
    assert one.keys() == (Secret("a"),)
    assert many.keys() == (Secret("a"), Secret("b"))
    assert many.keys("batch") == (Secret("c"),)
    assert (one.region, many.region) == ("cn", None)
    assert config.routes[0].candidates[0].keys == "batch"


def test_what_check_prints_are_the_same_settings(write: Write, tmp_path: Path) -> None:
    text = """
  - name: all
    match: {model: ["glm-*"], header: {x-a: b}, max_prompt: 1KiB}
    candidates: [{model: a}, {endpoint: cn}]
    params: {force: {thinking: disabled, tools: null}, cap: {max_tokens: 5}}
"""
    path = write(ENDPOINTS + PATIENCE + text)
    printed = CliRunner().invoke(check, [str(path)])
    assert printed.exit_code == 0, printed.output
    assert "after: p50" in printed.output
    assert "retry_budget: 20%" in printed.output
    again = tmp_path / "again.yaml"
    again.write_text(printed.stdout)  # warnings are not part of it
    assert load(again, {}) == load(path, {})


def test_check_names_where_a_key_of_a_group_comes_from_and_hides_it(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", CANARY)
    text = f"endpoints: [{{{CN}, api_keys: ['env:KEY'], key_groups: {{g: ['env:KEY']}}}}]"
    printed = CliRunner().invoke(check, [str(write(text))]).output
    assert printed.count("*** (env:KEY)") == 2
    assert CANARY not in printed


def test_overrides_win_over_the_file(write: Write) -> None:
    config = load(write(ENDPOINTS + "server: {port: 1}"), {}, {"server.port": 2, "admin.port": 0})
    assert (config.server.port, config.admin.port) == (2, 0)


def test_settings_do_not_change(write: Write) -> None:
    config = load(write(ENDPOINTS), {})
    with pytest.raises(ValidationError):
        config.server.port = 1


def test_a_ca_file_is_found_beside_the_settings(write: Write, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    text = "endpoints: [{name: cn, base_url: https://open.bigmodel.cn, ca_file: ca.pem}]"
    assert load(write(text), {}).endpoints[0].ca_file == tmp_path / "ca.pem"


# --- what is refused ---------------------------------------------------------------------------

CN = "name: cn, base_url: https://open.bigmodel.cn"
WRONG = [
    # text after a valid `endpoints`, where, what the message must say
    ("nope: 1", "nope", "unknown setting"),
    ("time_outs: {}", "time_outs", "did you mean timeouts?"),
    ("retries: 1", "retries", "unknown setting here; belongs to attempts"),
    ("breaker: off", "breaker", "belongs to attempts"),
    ("share: true", "share", "belongs to a rule in routes"),
    ("candidates: []", "candidates", "belongs to a rule in routes"),
    ("first_content_target: 5s", "first_content_target", "belongs to a rule in routes"),
    ("key_groups: {}", "key_groups", "belongs to an endpoint"),
    ("api_key: 'env:K'", "api_key", "belongs to an endpoint"),
    ("port: 80", "port", "belongs to server or admin"),
    ("routes: [{name: a, retries: 1}]", "routes[0].retries", "belongs to attempts"),
    ("routes: [{name: a, model: x}]", "routes[0].model", "belongs to match or a candidate"),
    ("server: {prot: 1}", "server.prot", "did you mean port?"),
    ("timeouts: {idle: 60}", "timeouts.idle", "write 60s"),
    ("timeouts: {idle: 0}", "timeouts.idle", "more than 0"),
    ("timeouts: {idle: soon}", "timeouts.idle", "found 'soon', must be a duration"),
    ("server: {body_limit: 64KB}", "server.body_limit", "64KiB"),
    ("server: {port: 70000}", "server.port", "at most 65535"),
    ("server: {port: '80'}", "server.port", "whole number"),
    ("server: {port: true}", "server.port", "whole number"),
    ("server: {port: 1.5}", "server.port", "whole number"),
    ("server: {workers: 0}", "server.workers", "found 0, must be a whole number, 1 to 256"),
    ("server: {workers: all}", "server.workers", "found 'all', must be"),
    ("server: {host: 0.0.0.0}", "server.host", "set access: keys"),
    ("server: {host: '::'}", "server.host", "whoever reaches it may use this proxy"),
    ("server: {host: 192.0.2.1}\naccess: open", "server.host", "set access: keys"),
    ("server: {host: '::ffff:7f00:1'}", "server.host", "is not a loopback address"),
    ("server: {allow_remote: true}", "server.allow_remote", "not here; remove it. An address that"),
    ("server: {allow_remote: false}", "server.allow_remote", "needs access: keys"),
    ("server: {host: example.com}", "server.host", "must be an IP address"),
    ("server: {host: 127.1}", "server.host", "found 127.1, must be text"),
    ("admin: {host: 0.0.0.0}", "admin.host", "allow_remote: true"),
    ("admin: {host: 0.0.0.0, allow_remote: true}", "admin.allow_remote", "needs a token"),
    ("admin: {host: '::'}", "admin.host", "allow_remote: true and a token beside it"),
    ("admin: {port: 8080}", "admin.port", "the two must differ"),
    ('admin: {hosts: ["proxy.internal:9090"]}', "admin.hosts", "without scheme and port"),
    ('admin: {hosts: [""]}', "admin.hosts", "a name alone"),
    (
        'tracing: {endpoint: "http://127.0.0.1:4318/v1/traces/"}',
        "tracing.endpoint",
        "/v1/traces is added",
    ),
    ("server:", "server", "found nothing, must be a mapping"),
    ("stream: []", "stream", "found a list, must be a mapping"),
    ("stream: {text_buffer_size: 0}", "stream.text_buffer_size", "at least 1"),
    ("stream: {emit_metadata: 1}", "stream.emit_metadata", "true or false"),
    ("pool: {http2: true}", "pool.http2", "'auto', 'always' or 'off'"),
    ("log: {level: loud}", "log.level", "found 'loud'"),
    ("access: {}", "access", "found a mapping, must be 'open' or 'keys'"),
    ("access: key", "access", "found 'key', must be 'open' or 'keys'"),
    ("limits: {per_key: {concurrent: 0}}", "limits.per_key.concurrent", "at least 1"),
    ("limits: {total: {tokens: 5}}", "limits.total.tokens", "did you mean tokens_per_day?"),
    ("admission: {queue: 0}", "admission.queue", "at least 1"),
    ("state: {}", "state.url", "missing"),
    ("memory: {}", "memory", "belongs into a route"),
    ("cache: {}", "cache", "belongs into a route"),
    (
        "routes: [{name: a, on_disconnect: {keep: 60}}]",
        "routes[0].on_disconnect",
        "without a unit",
    ),
    ("routes: [{name: a, on_disconnect: stay}]", "routes[0].on_disconnect", "must be cancel"),
    (
        "routes: [{name: a, memory: {store: redis://127.0.0.1}}]",
        "routes[0].memory.store.url",
        "must be sqlite:PATH, or the URL",
    ),
    ("routes: [{name: a, memory: {store: 7}}]", "routes[0].memory.store", "must be a URL"),
    ("routes: [{name: a, cache: {store: memory}}]", "routes[0].cache.store.url", "sqlite:PATH"),
    (
        "routes: [{name: a, cache: {store: sqlite:a.db, max_answer: 64MiB}}]",
        "routes[0].cache.max_answer",
        "at most 16MiB",
    ),
    (
        "routes: [{name: a, cache: {store: {url: sqlite:a.db, max_size: 1MiB}, max_answer: 2MiB}}]",
        "routes[0].cache.max_answer",
        "more than store.max_size",
    ),
    (
        "routes: [{name: a, share: true, memory: {store: sqlite:m.db}}]",
        "routes[0].share",
        "cannot go with memory",
    ),
    ("websocket: {origins: [app.example]}", "websocket.origins", "must be scheme://host"),
    (
        "websocket: {origins: [https://a.example, '*', https://b.example/path]}",
        "websocket.origins",
        "found '*', 'https://b.example/path', must",
    ),
    (
        "routes: [{name: a, memory: {store: http://192.0.2.1/m}}]",
        "routes[0].memory.store.url",
        "or set allow_plain: true",
    ),
    (
        "routes: [{name: a, memory: {store: https://me:secret@192.0.2.1/m}}]",
        "routes[0].memory.store.url",
        "remove it and use token",
    ),
    (
        "routes: [{name: a, cache: {store: http://192.0.2.1}}]",
        "routes[0].cache.store.url",
        "redis://HOST or rediss://HOST",
    ),
    ("attempts: {retries: -1}", "attempts.retries", "at least 0"),
    ("attempts: {retry_budget: 5}", "attempts.retry_budget", "write a share such as 5%"),
    ("attempts: {retry_budget: 150%}", "attempts.retry_budget", "at most 100%"),
    ("attempts: {breaker: 3}", "attempts.breaker", "found 3, must be off or a mapping"),
    ("attempts: {breaker: {failures: 0}}", "attempts.breaker.failures", "at least 1"),
    ("attempts: {breaker: {fails: 1}}", "attempts.breaker.fails", "did you mean failures?"),
    ("admission: {limit: 0}", "admission.limit", "learned, model, off or a number from 1"),
    ("admission: {limit: true}", "admission.limit", "found true"),
    ("admission: {limit: many}", "admission.limit", "found 'many'"),
    ("admission: {limit: [1]}", "admission.limit", "found a list"),
    ("hedge: true", "hedge", "found true, must be off or a mapping: {after: p90}"),
    ("hedge: {after: 90%}", "hedge.after", "found '90%', must be a percentile, such as p50"),
    ("hedge: {after: 0.9}", "hedge.after", "found 0.9"),
    ("hedge: {afer: p90}", "hedge.afer", "did you mean after?"),
    ("hedge: {min: 20s}", "hedge", "min, 20s, is more than max, 10s; lower min or raise max"),
    ("routes: [{name: a, hedge: {max: 1ms}}]", "routes[0].hedge", "lower min or raise max"),
    ("commit: soon", "commit", "'late' or 'early'"),
    ("routes: [{name: a, share: 1}]", "routes[0].share", "true or false"),
    ("routes: [{name: a, confidence: p100}]", "routes[0].confidence", "found 'p100'"),
    ("routes: [{name: a, first_content_target: 5}]", "routes[0].first_content_target", "5s"),
    ("models_file: nowhere.yaml", "models_file", "there is no file"),
    ("routes: [{}]", "routes[0].name", "missing"),
    ("routes: [{name: 4.6}]", "routes[0].name", "put quotes around it"),
    ("routes: [{name: a b}]", "routes[0].name", "letters, digits"),
    ("routes: [{name: a}, {name: a}]", "routes[1].name", "also the name of routes[0]"),
    ("routes: [{name: a, match: {key: x}}]", "routes[0].match.key", "must be a list"),
    ("routes: [{name: a, match: {key: []}}]", "routes[0].match.key", "matches nothing"),
    ("routes: [{name: a, match: {model: x}}]", "routes[0].match.model", "must be a list"),
    ("routes: [{name: a, match: {model: []}}]", "routes[0].match.model", "matches nothing"),
    ("routes: [{name: a, match: {model: [4.6]}}]", "routes[0].match.model[0]", "quotes"),
    ("routes: [{name: a, match: {header: {'x y': z}}}]", "routes[0].match.header", "header name"),
    (
        "routes: [{name: a, match: {min_prompt: 2KiB, max_prompt: 1KiB}}]",
        "routes[0].match.max_prompt",
        "smaller than min_prompt",
    ),
    ("routes: [{name: a, candidates: []}]", "routes[0].candidates", "the list is empty"),
    (
        "routes: [{name: a, candidates: [{endpoint: cn}, {endpoint: x}]}]",
        "routes[0].candidates[1].endpoint",
        "there is no endpoint 'x'; known: cn",
    ),
    (
        "routes: [{name: a, candidates: [{model: x}, {endpoint: cn, keys: b}]}]",
        "routes[0].candidates[1].keys",
        "endpoint 'cn' has no key group 'b'; known: none; add key_groups to the endpoint",
    ),
    (
        "routes: [{name: a, candidates: [{keys: b}]}]",
        "routes[0].candidates[0].keys",
        "needs an endpoint beside it",
    ),
    (
        "routes: [{name: a, candidates: [{endpoint: x, keys: b}]}]",
        "routes[0].candidates[0].endpoint",
        "there is no endpoint 'x'",
    ),
    (
        "routes: [{name: a, params: {cap: {tokens: 1}}}]",
        "routes[0].params.cap.tokens",
        "did you mean max_tokens?",
    ),
    (
        "routes: [{name: a, params: {cap: {max_tokens: 0}}}]",
        "routes[0].params.cap.max_tokens",
        "at least 1",
    ),
    (
        "routes: [{name: a, params: {drop_unused_tools: 1}}]",
        "routes[0].params.drop_unused_tools",
        "true or false",
    ),
    (
        "routes: [{name: a, params: {fill: {thinking: off}}}]",
        "routes[0].params.fill",
        "thinking must be enabled, disabled or an object",
    ),
    (
        f"routes: [{{name: a, params: {{fill: {{seed: {2**70}}}}}}}]",
        "routes[0].params.fill",
        "seed has a value that JSON has no words for",
    ),
    ("routes: [{name: a, params: {force: {x: .nan}}}]", "routes[0].params.force", "x has a value"),
    ("routes: [{name: a, params: {force: {model: x}}}]", "routes[0].params.force", "model"),
    ("routes: [{name: a, params: {fill: {messages: []}}}]", "routes[0].params.fill", "messages"),
    ("routes: [{name: a, params: {fill: {stream: true}}}]", "routes[0].params.fill", "stream"),
    (
        "routes: [{name: a, params: {fill: {when: 2026-01-01}}}]",
        "routes[0].params.fill.when",
        "JSON",
    ),
    (
        "routes: [{name: a, params: {fill: {top_p: 1}, force: {top_p: 2}}}]",
        "routes[0].params.force",
        "also in fill",
    ),
]


@pytest.mark.parametrize(("text", "where", "says"), WRONG, ids=[text for text, _, _ in WRONG])
def test_a_wrong_setting_is_refused_by_its_path(
    write: Write, text: str, where: str, says: str
) -> None:
    error = refused(write(ENDPOINTS + text))
    (problem,) = error.problems
    assert problem.where == where
    assert says in problem.text
    assert problem.line == 2


def test_a_header_for_the_collector_has_a_name_that_can_be_sent(write: Write) -> None:
    text = 'tracing: {endpoint: "http://127.0.0.1:4318", headers: {"x y": "env:OTLP"}}'
    (problem,) = refused(write(ENDPOINTS + text), {"OTLP": CANARY}).problems
    assert (problem.where, problem.text) == ("tracing.headers", "'x y' is no header's name")


@pytest.mark.parametrize("name", sorted(UNTOUCHABLE))
@pytest.mark.parametrize("how", ["fill", "force"])
def test_params_set_neither_the_prompt_nor_what_decides_the_answers_form(
    write: Write, name: str, how: str
) -> None:
    text = f"routes: [{{name: a, params: {{{how}: {{{name}: null}}}}}}]"
    (problem,) = refused(write(ENDPOINTS + text)).problems
    assert problem.where == f"routes[0].params.{how}"
    assert problem.text == f"must not set {name}; a model is set by candidates"


@pytest.mark.parametrize(
    ("keys", "where", "says"),
    [
        ("api_key: 'env:K', api_keys: ['env:K']", "api_keys", "api_key is given too"),
        ("api_keys: 'env:K'", "api_keys", "found 'env:K', must be a list"),
        ("api_keys: []", "api_keys", "the list is empty; name at least one key, or leave it out"),
        ("api_key: 'env:K', api_keys: []", "api_keys", "the list is empty"),
        ("api_keys: ['env:K', 'env:NO']", "api_keys[1]", "env:NO is not set"),
        ("key_groups: {g: []}", "key_groups", "g is empty; list at least one key"),
        ("key_groups: {g: ['env:NO']}", "key_groups.g[0]", "env:NO is not set"),
        ("key_groups: {'a b': ['env:K']}", "key_groups.a b", "must be 1 to 64 letters"),
        ("key_groups: ['env:K']", "key_groups", "must be a mapping"),
        ("region: a b", "region", "must be 1 to 64 letters"),
    ],
)
def test_wrong_keys_of_an_endpoint_are_refused_by_their_path(
    write: Write, keys: str, where: str, says: str
) -> None:
    (problem,) = refused(write(f"endpoints: [{{{CN}, {keys}}}]"), {"K": "k"}).problems
    assert problem.where == f"endpoints[0].{where}"
    assert says in problem.text


def test_a_key_group_that_is_missing_is_told_with_those_that_are_there(write: Write) -> None:
    text = f"""
endpoints: [{{{CN}, key_groups: {{a: ["env:K"], b: ["env:K"]}}}}]
routes: [{{name: r, candidates: [{{endpoint: cn, keys: c}}]}}]
"""
    (problem,) = refused(write(text), {"K": "k"}).problems
    assert problem.text == "endpoint 'cn' has no key group 'c'; known: a, b"


def test_a_routes_hedge_is_checked_with_what_it_inherits(write: Write) -> None:
    text = "hedge: {max: 5s}\nroutes: [{name: slow, hedge: {min: 6s}}]"
    (problem,) = refused(write(ENDPOINTS + text)).problems
    assert problem.text.startswith("route slow: hedge.min is more than hedge.max")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "for example"),
        ("endpoints: []", "for example"),
        ("server: {port: 1}", "name: cn"),
        ("- a", "must be a mapping"),
        ("just text", "must be a mapping"),
        ("server: {port: 1", "line 1: is not valid YAML"),
        ("a: 1\n\tb: 2", "line 2: is not valid YAML"),
        ("server: {port: 1}\nserver: {port: 2}", "line 2, server: given twice, first in line 1"),
        ("server: {port: 1, port: 2}", "server.port: given twice"),
        ("1: 2", "a key must be text"),
        ("server: &a [*a]", "refers to itself"),
        ("a: !!python/object:os.system {}", "is not valid YAML"),
        ("a: 2024-99-99", "is not valid YAML"),
        ("a: 1\n---\nb: 2", "is not valid YAML"),
        ("a: \x01", "is not valid YAML"),
        ("[" * 5000, "is not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_what_to_do(write: Write, text: str, says: str) -> None:
    assert says in str(refused(write(text)))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://api.z.ai", "allow_plain_http: true"),
        ("http://169.254.169.254", "allow_plain_http: true"),
        ("ftp://api.z.ai", "must begin with https://"),
        ("api.z.ai", "must begin with https://"),
        ("https://user:secret@api.z.ai", "user name or password"),
        ("https://api.z.ai?key=1", "remove '?'"),
        ("https://api.z.ai#x", "remove '?'"),
        ("https://api.z.ai?", "remove '?'"),
        ("https://", "host name"),
        ("https://api z.ai", "without blanks"),
        ("https://api.z.ai\n", "without blanks"),
        ("https://api.z.ai:0", "the port"),
        ("https://api.z.ai:", "the port"),
        ("https://api.z.ai:99999", "the port"),
        ("https://api.z.ai/../x", "a path must look like"),
        ("https://api.z.ai/%2e%2e", "a path must look like"),
        ("https://2130706433", "usual spelling"),
        ("https://0x7f000001", "usual spelling"),
        ("https://127.1", "usual spelling"),
        ("https://0177.0.0.1", "usual spelling"),
        ("https://[::ffff:7f00:1]", "not an address"),
        ("https://[::ffff:127.0.0.1]", "usual spelling"),
        ("https://[0::1]", "usual spelling"),
        ("https://0.0.0.0", "not an address"),
        ("https://[::1", "must be a URL"),
        ("https://ex*mple.com", "host name"),
    ],
)
def test_a_base_url_that_may_not_be_called_is_refused(write: Write, url: str, says: str) -> None:
    error = refused(write(json.dumps({"endpoints": [{"name": "x", "base_url": url}]})))
    (problem,) = error.problems
    assert problem.where == "endpoints[0].base_url"
    assert says in problem.text
    assert "secret" not in problem.text


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://open.bigmodel.cn", "https://open.bigmodel.cn"),
        ("https://Open.BigModel.cn:8443/prefix/", "https://open.bigmodel.cn:8443/prefix"),
        ("http://localhost:1", "http://localhost:1"),
        ("http://127.0.0.1:8443/", "http://127.0.0.1:8443"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("http://10.1.2.3", "http://10.1.2.3"),
        ("http://192.168.1.2", "http://192.168.1.2"),
    ],
)
def test_a_base_url_is_kept_without_its_last_slash(url: str, kept: str) -> None:
    assert Endpoint(name="x", base_url=url).base_url == kept


def test_plain_http_to_anywhere_needs_the_flag(write: Write) -> None:
    text = "endpoints: [{name: x, base_url: http://api.z.ai, allow_plain_http: true}]"
    assert load(write(text), {}).endpoints[0].base_url == "http://api.z.ai"


def test_all_problems_are_told_at_once(write: Write) -> None:
    text = """
endpoints:
  - {name: cn, base_url: "http://api.z.ai"}
  - {name: cn, base_url: "https://api.z.ai", api_key: "env:NOPE"}
timeouts: {idle: 60}
server: {port: 9090}
routes: [{name: a, candidates: [{endpoint: nowhere}]}]
nope: 1
"""
    error = refused(write(text))
    assert [(problem.where, problem.line) for problem in error.problems] == [
        ("admin.port", None),  # its default meets the data port
        ("endpoints[0].base_url", 3),
        ("endpoints[1].api_key", 4),
        ("endpoints[1].name", 4),
        ("timeouts.idle", 5),
        ("routes[0].candidates[0].endpoint", 7),
        ("nope", 8),
    ]
    assert str(error).count("\n") == len(error.problems)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: \xff"])
def test_a_file_that_is_not_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    assert "is not valid YAML" in str(refused(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    what_to_do = "; correct the path or its permissions"
    assert str(refused(tmp_path / "none.yaml")).endswith(
        "cannot be read: No such file or directory" + what_to_do
    )
    assert str(refused(tmp_path)).endswith("cannot be read: Is a directory" + what_to_do)


def test_a_ca_file_that_is_no_certificate_is_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello")
    error = refused(write(f"endpoints: [{{{CN}, ca_file: ca.pem}}]"))
    assert "cannot be read as PEM certificates" in error.problems[0].text


def test_a_ca_file_that_may_not_be_read_is_told_as_that(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    path.touch()

    def denied(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)  # root may read everything
    (problem,) = refused(write(f"endpoints: [{{{CN}, ca_file: ca.pem}}]")).problems
    assert problem.text == f"'{path}' cannot be read: Permission denied; correct its permissions"


def test_a_remote_address_is_allowed_where_callers_have_keys(write: Write) -> None:
    text = "access: keys\nserver: {host: 0.0.0.0}\n"
    text += "endpoints: [{name: cn, base_url: https://open.bigmodel.cn, api_key: 'env:KEY'}]"
    config = load(write(text), {"KEY": CANARY})
    assert (config.server.host, config.access) == ("0.0.0.0", "keys")


def test_a_remote_operators_listener_is_allowed_with_a_token(write: Write) -> None:
    text = ENDPOINTS + "admin: {host: 0.0.0.0, allow_remote: true, token: 'env:TOKEN'}"
    config = load(write(text), {"TOKEN": "c0ffee5f91d2ab70"})
    assert config.admin.host == "0.0.0.0"


def test_with_keys_for_callers_each_endpoint_without_one_of_its_own_is_named(write: Write) -> None:
    text = "access: keys\nendpoints:\n"
    text += "  - {name: a, base_url: https://a.example}\n"
    text += "  - {name: b, base_url: https://b.example, api_key: 'env:KEY'}\n"
    text += "  - {name: c, base_url: https://c.example, key_groups: {more: ['env:KEY']}}\n"
    text += "  - {name: d, base_url: https://d.example, api_keys: ['env:KEY']}\n"
    error = refused(write(text), {"KEY": CANARY})
    assert [problem.where for problem in error.problems] == ["endpoints[0]", "endpoints[2]"]
    assert "endpoint 'c' has no key of its own" in error.problems[1].text
    assert "give it an api_key" in error.problems[1].text


# --- what has no effect ------------------------------------------------------------------------

NO_STREAM = "name: a, match: {stream: false}"
IDLE = [
    # text after valid `endpoints`, the whole warning
    (
        f"routes: [{{{NO_STREAM}, share: true}}]",
        "routes[0].share: has no effect, since only streams are shared and match takes none;"
        " remove one",
    ),
    (
        f"routes: [{{{NO_STREAM}, hedge: {{}}}}]",
        "routes[0].hedge: has no effect, since only streams are hedged and match takes none;"
        " set stream.upgrade: true, or hedge: off",
    ),
    (
        f"hedge: {{}}\nroutes: [{{{NO_STREAM}}}]",
        "routes[0].hedge: has no effect, since only streams are hedged and match takes none;"
        " set stream.upgrade: true, or hedge: off",
    ),
    (
        "commit: early\nstream: {heartbeat: 0}\nroutes: [{name: a}]",
        "commit: early has no effect while stream.heartbeat is 0, since a heartbeat brings"
        " the status; set one, or commit: late",
    ),
    (
        "stream: {heartbeat: 0}\nroutes: [{name: a, commit: early}]",
        "routes[0].commit: early has no effect while stream.heartbeat is 0, since a heartbeat"
        " brings the status; set one, or commit: late",
    ),
    (
        "timeouts: {first_token: 2m, total: 90s}\nroutes: [{name: a}]",
        "timeouts.first_token: has no effect, since 2m is more than total, 90s; lower it or raise"
        " total",
    ),
    (
        "timeouts: {first_token: 30s}\nroutes: [{name: a, timeouts: {total: 20s}}]",
        "routes[0].timeouts.first_token: has no effect, since 30s is more than total, 20s; lower"
        " it or raise total",
    ),
    (
        "routes: [{name: a, match: {path: ['/a']}}, {name: b}, {name: c, match: {path: ['/c']}}]",
        "routes[2]: is never reached, since routes[1] takes every request; move it before that"
        " one, or give that one a match",
    ),
    (
        "routes: [{name: a, match: {key: [team-*]}}]",
        "routes[0].match.key: never matches, since with access: open nobody has a key of this"
        " proxy; remove it, or set access: keys",
    ),
    (
        "metrics: {enabled: false, folder: figures}",
        "metrics.folder: has no effect, since enabled is false; leave one of the two out",
    ),
    (
        "routes: [{name: a, candidates: [{model: x}, {model: y}, {model: x}]}]",
        "routes[0].candidates[2]: has no effect, since candidates[0] is the same; remove one",
    ),
    (
        "routes: [{name: a, responses: {retention: 2h}}]",
        "routes[0].responses.retention: has no effect, since nothing is stored without a"
        " store; name one, or remove it",
    ),
    (
        "routes: [{name: a, memory: {store: 'sqlite:/m.db'}, responses: {store:"
        " 'sqlite:///m.db'}}]",
        "routes[0].responses.store: cannot be used, since routes[0].memory.store names this"
        " file for something else; name another one",
    ),
    (
        "state: 'sqlite:/s.db'\nroutes: [{name: a, cache: {store: 'sqlite:/s.db'}}]",
        "routes[0].cache.store: cannot be used, since state names this file for something"
        " else; name another one",
    ),
]


@pytest.mark.parametrize(("text", "warning"), IDLE, ids=[text for text, _ in IDLE])
def test_a_setting_without_effect_is_warned_of_once(write: Write, text: str, warning: str) -> None:
    assert load(write(ENDPOINTS + text), {}).warnings == (warning,)


@pytest.mark.parametrize(
    "text",
    [
        "routes: [{name: a, match: {stream: true}, share: true, hedge: {}}]",
        "routes: [{name: a, share: true, hedge: {}}]",
        f"routes: [{{{NO_STREAM}, hedge: {{}}, stream: {{upgrade: true}}}}]",
        f"hedge: {{}}\nroutes: [{{{NO_STREAM}, hedge: off}}]",
        f"hedge: {{}}\nstream: {{upgrade: true}}\nroutes: [{{{NO_STREAM}}}]",
        "commit: early",
        "stream: {heartbeat: 0}",
        "stream: {heartbeat: 0}\nroutes: [{name: a, commit: early, stream: {heartbeat: 1s}}]",
        "timeouts: {first_token: 20s, total: 20s}",
        "routes: [{name: a, responses: {}}]",
        "state: 'sqlite:/s.db'\nroutes: [{name: a, cache: {store: 'sqlite:/c.db'}, responses:"
        " {store: 'sqlite:/c.db'}}]",
        "routes: [{name: a, match: {model: [x]}, memory: {store: 'sqlite:/m.db'}}, {name: b,"
        " memory: {store: 'sqlite:/m.db'}}]",
        "routes: [{name: a, match: {min_prompt: 0}}, {name: b}]",
        "routes: [{name: a, candidates: [{model: x}, {model: x, endpoint: cn}]}]",
    ],
)
def test_a_setting_with_an_effect_is_not_warned_of(write: Write, text: str) -> None:
    assert load(write(ENDPOINTS + text), {}).warnings == ()


# --- secrets -----------------------------------------------------------------------------------


def with_key(reference: str) -> str:
    return f"endpoints: [{{{CN}, api_key: {json.dumps(reference)}}}]"


def test_a_key_comes_from_the_environment_or_a_file(write: Write, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(CANARY + "\n")
    key.chmod(0o600)
    for reference in ("env:KEY", f"file:{key}", "file:key"):
        config = load(write(with_key(reference)), {"KEY": CANARY})
        secret = config.endpoints[0].api_key
        assert secret is not None
        assert secret.reveal() == CANARY
        assert secret.reference == reference
        assert config.warnings == ()


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (CANARY, "must be a reference"),
        (f"key:{CANARY}", "must be a reference"),
        ("", "must be a reference"),
        ("env:", "must be a reference"),
        ("file:", "must be a reference"),
        (f"env:{CANARY}", "the name of an environment variable"),
        ("env:MISSING", "env:MISSING is not set"),
        ("env:EMPTY", "env:EMPTY is empty"),
        ("env:BLANKS", "env:BLANKS holds blanks"),
        ("env:LINES", "env:LINES holds blanks"),
        ("env:CHINESE", "env:CHINESE holds blanks or characters"),
        ("file:missing", "file:missing cannot be read: No such file or directory"),
        ("file:.", "file:. cannot be read: Is a directory"),
        ("file:empty", "file:empty is empty"),
        ("file:blanks", "file:blanks holds blanks"),
        ("file:two-lines", "file:two-lines holds blanks"),
        ("file:large", "file:large is larger than"),
        ("file:a\0b", "cannot be read"),
        ("file:pipe", "cannot be read: it is a pipe"),
    ],
)
def test_a_key_that_cannot_be_had_is_named_and_not_shown(
    write: Write, tmp_path: Path, reference: str, says: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    files = {
        "empty": "\n",
        "blanks": f"{CANARY} ",
        "two-lines": f"{CANARY}\n{CANARY}\n",
        "large": CANARY * 1000,
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    environ = {
        "EMPTY": "",
        "BLANKS": f" {CANARY}",
        "LINES": f"{CANARY}\nx: y",
        "CHINESE": f"{CANARY}钥",
    }
    error = refused(write(with_key(reference)), environ)
    (problem,) = error.problems
    assert problem.where == "endpoints[0].api_key"
    assert says in problem.text
    assert CANARY not in f"{error} {error!r} {error.__cause__} {error.__context__}"


@pytest.mark.parametrize(
    "text",
    [
        f"endpoints: [{{{CN}, api_keys: {CANARY}}}]",
        f"api_key: {CANARY}",
        f"endpoints: [{{{CN}, api_key: [{CANARY}]}}]",
        f"endpoints: [{{{CN}, api_key: {CANARY}]",
        f"endpoints: {CANARY}",
        f"endpoints: [{{name: '{CANARY} ', base_url: '{CANARY}'}}]",
    ],
)
def test_a_key_in_the_wrong_place_is_not_shown(write: Write, text: str) -> None:
    assert CANARY not in str(refused(write(text)))


def test_a_key_file_that_everybody_may_read_is_warned_of(write: Write, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(CANARY)
    key.chmod(0o644)
    (warning,) = load(write(with_key("file:key")), {}).warnings
    assert warning == "file:key is readable by everybody; chmod 600 it"


@pytest.mark.parametrize(
    "token",
    [
        "c0ffee5f91d2ab7",  # one short
        "x" * 64,
        "abababababababababab",
        "changemechangeme",
        "Change-Me-Please-1",
        "your-admin-token-here",
        "insert_secret_token",
        "MySuperSecretPassword123",
        "glm-proxy-default-key",
        "1234567890123456",
    ],
)
def test_an_operators_token_that_can_be_guessed_is_refused(write: Write, token: str) -> None:
    (problem,) = refused(write(ENDPOINTS + "admin: {token: 'env:T'}"), {"T": token}).problems
    assert problem.where == "admin.token"
    assert problem.text.startswith("env:T can be guessed; an admin.token has 16 characters or more")
    assert token not in str(problem)


@pytest.mark.parametrize("token", ["c0ffee5f91d2ab70", "operator-token-1", "f" * 9 + "0123456789"])
def test_an_operators_token_of_sixteen_characters_by_chance_is_taken(
    write: Write, token: str
) -> None:
    config = load(write(ENDPOINTS + "admin: {token: 'env:T'}"), {"T": token})
    assert config.admin.token == Secret(token)
    assert config.warnings == ()


SHOWN = [
    str,
    repr,
    format,
    "{}".format,
    "%s".__mod__,
    "%r".__mod__,
    json.dumps,
    lambda secret: json.dumps({"key": secret}),
    orjson.dumps,
    pickle.dumps,
    lambda secret: pickle.loads(pickle.dumps(secret)),
    lambda secret: yaml.dump(str(secret)),
    lambda secret: f"{Endpoint(name='x', base_url='https://x', api_key=secret)!r}",
    lambda secret: Endpoint(name="x", base_url="https://x", api_key=secret).model_dump_json(),
    lambda secret: "Bearer " + secret,
    list,
]


@pytest.mark.parametrize("show", SHOWN)
def test_a_secret_shows_a_mask(show: Callable[[Secret], object]) -> None:
    shown = str(show(Secret(CANARY, "env:KEY")))
    assert CANARY not in shown
    assert "*" in shown


def test_a_secret_in_a_logged_exception_shows_a_mask(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(CANARY)
    try:
        raise ValueError(secret)
    except ValueError:
        logging.getLogger("test").exception("with %s %r", secret, secret)
    assert "***" in caplog.text
    assert CANARY not in caplog.text


def test_secrets_are_equal_by_value() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "***"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert copy.deepcopy(Secret("a")).reveal() == "a"
