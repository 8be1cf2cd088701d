"""Settings: what is accepted, what is refused and in which words, and that no secret is shown."""

from __future__ import annotations

import copy
import errno
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import orjson
import pytest
import trustme
import yaml
from pydantic import BaseModel, ValidationError

from proxy.cli.check import schema
from proxy.config import Config, ConfigError, Endpoint, PoolSettings, Secret, bundled, load
from proxy.config.units import DURATION, SIZE, Quantity, Unit

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


@pytest.mark.parametrize("name", ["proxy.yaml", "fast.yaml"])
def test_every_bundled_file_loads_without_an_environment(name: str) -> None:
    assert load(bundled(name), {}).endpoints


def test_schema_json_is_what_the_models_say() -> None:
    fix = "run: glm-proxy check --schema > config/schema.json"
    assert bundled("schema.json").read_text() == schema() + "\n", fix


def test_the_schema_shows_defaults_with_their_unit() -> None:
    pool = json.loads(schema())["$defs"]["PoolSettings"]["properties"]
    assert pool["idle_timeout"]["default"] == "90s"
    assert pool["http1_bodies_over"]["default"] == "48KiB"


def test_units_become_seconds_and_bytes(write: Write) -> None:
    text = "timeouts: {first_token: 250ms, idle: 1.5s, total: 2m}\nserver: {body_limit: 8MiB}"
    config = load(write(ENDPOINTS + text), {})
    assert config.timeouts.model_dump() == {"first_token": 0.25, "idle": 1.5, "total": 120.0}
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
    ],
)
def test_what_is_not_a_quantity_is_refused(unit: Unit, text: object) -> None:
    with pytest.raises(ValueError, match=r"must|without a unit"):
        Quantity(unit, zero=True).read(text, strict=True)


@pytest.mark.parametrize(
    ("number", "text"), [(0.1, "100ms"), (90, "90s"), (600, "10m"), (86400, "24h"), (0, 0)]
)
def test_a_duration_is_shown_in_its_largest_whole_unit(number: float, text: object) -> None:
    assert Quantity(DURATION).text(number) == text


def test_code_that_builds_a_model_gives_plain_seconds() -> None:
    assert PoolSettings(ping_interval=0.2).ping_interval == 0.2


def test_off_without_quotes_is_off_and_not_false(write: Write) -> None:
    config = load(write(ENDPOINTS + "pool: {http2: off}\nlog: {format: off}"), {})
    assert (config.pool.http2, config.log.format) == ("off", "off")


def test_a_route_inherits_what_it_leaves_out(write: Write) -> None:
    text = "timeouts: {total: 20s}\nroutes: [{name: a, timeouts: {idle: 5s}}, {name: b}]"
    config = load(write(ENDPOINTS + text), {})
    a, b = (rule.timeouts for rule in config.routes)
    assert a is not None
    assert (a.first_token, a.idle, a.total) == (None, 5.0, 20.0)
    assert b == config.timeouts
    assert config.routes[0].stream == config.stream


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
    ("server: {prot: 1}", "server.prot", "did you mean port?"),
    ("timeouts: {idle: 60}", "timeouts.idle", "write 60s"),
    ("timeouts: {idle: 0}", "timeouts.idle", "more than 0"),
    ("timeouts: {idle: soon}", "timeouts.idle", "found 'soon', must be a duration"),
    ("server: {body_limit: 64KB}", "server.body_limit", "64KiB"),
    ("server: {port: 70000}", "server.port", "at most 65535"),
    ("server: {port: '80'}", "server.port", "whole number"),
    ("server: {port: true}", "server.port", "whole number"),
    ("server: {port: 1.5}", "server.port", "whole number"),
    ("server: {workers: 2}", "server.workers", "not available in this version"),
    ("server: {host: 0.0.0.0}", "server.host", "allow_remote: true"),
    ("server: {host: '::'}", "server.host", "does not check who is calling"),
    ("server: {host: example.com}", "server.host", "must be an IP address"),
    ("server: {host: 127.1}", "server.host", "found 127.1, must be text"),
    ("admin: {host: 0.0.0.0}", "admin.host", "allow_remote: true"),
    ("admin: {port: 8080}", "admin.port", "the two must differ"),
    ("server:", "server", "found nothing, must be a mapping"),
    ("stream: []", "stream", "found a list, must be a mapping"),
    ("stream: {text_buffer_size: 0}", "stream.text_buffer_size", "at least 1"),
    ("stream: {emit_metadata: 1}", "stream.emit_metadata", "true or false"),
    ("stream: {upgrade: true}", "stream.upgrade", "not available in this version"),
    ("pool: {http2: true}", "pool.http2", "'auto', 'always' or 'off'"),
    ("log: {level: loud}", "log.level", "found 'loud'"),
    ("attempts: {retries: 2}", "attempts", "not available in this version"),
    ("admission: {}", "admission", "not available in this version"),
    ("access: {}", "access", "not available in this version"),
    ("limits: {}", "limits", "not available in this version"),
    ("state: {}", "state", "not available in this version"),
    ("memory: {}", "memory", "not available in this version"),
    ("models_file: nowhere.yaml", "models_file", "there is no file"),
    ("routes: [{}]", "routes[0].name", "missing"),
    ("routes: [{name: 4.6}]", "routes[0].name", "put quotes around it"),
    ("routes: [{name: a b}]", "routes[0].name", "letters, digits"),
    ("routes: [{name: a}, {name: a}]", "routes[1].name", "also the name of routes[0]"),
    ("routes: [{name: a, hedge: {}}]", "routes[0].hedge", "not available in this version"),
    ("routes: [{name: a, commit: early}]", "routes[0].commit", "not available"),
    ("routes: [{name: a, first_content_target: 5s}]", "routes[0].first_content_target", "not av"),
    ("routes: [{name: a, match: {key: x}}]", "routes[0].match.key", "not available"),
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


def test_a_setting_of_an_endpoint_that_belongs_to_a_later_version_is_refused(write: Write) -> None:
    (problem,) = refused(write(f"endpoints: [{{{CN}, region: eu}}]")).problems
    assert problem.where == "endpoints[0].region"
    assert "not available in this version" in problem.text


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


def test_a_remote_address_is_allowed_when_asked_for(write: Write) -> None:
    config = load(write(ENDPOINTS + "server: {host: 0.0.0.0, allow_remote: true}"), {})
    assert config.server.host == "0.0.0.0"


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
    ],
)
def test_a_key_that_cannot_be_had_is_named_and_not_shown(
    write: Write, tmp_path: Path, reference: str, says: str
) -> None:
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
