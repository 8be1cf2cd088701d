"""Whatever stands in the settings file, or beside it: it is used whole, or not at all."""

from __future__ import annotations

import os
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import CannotReload, ConfigError, Problem, bundled, load
from tests.fakes.raw_client import ask, chat
from tests.fakes.reloading import CHAT, Reloading, Told, endpoint, reloading
from tests.fakes.upstream import ScriptedUpstream

ENVIRON = {name: f"value-of-{name}" for name in ("ZHIPUAI_API_KEY", "ZAI_API_KEY", "TEAM_KEY")}
PLAIN = "now-plain"
Write = Callable[[Path, Path], None]
"""Puts something in the place of a settings file, the second argument's folder beside it."""


# --- files -------------------------------------------------------------------------------------


def removed(path: Path, folder: Path) -> None:
    path.unlink()


def emptied(path: Path, folder: Path) -> None:
    path.write_bytes(b"")


def a_folder(path: Path, folder: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_nothing(path: Path, folder: Path) -> None:
    path.unlink()
    path.symlink_to(folder / "nowhere")


def a_link_to_itself(path: Path, folder: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def noise(path: Path, folder: Path) -> None:
    path.write_bytes(random.Random(7).randbytes(4096))


def endless(path: Path, folder: Path) -> None:
    path.write_bytes(b"# long\n" * (1 << 18))


def bottomless(path: Path, folder: Path) -> None:
    path.write_text("[" * 50_000)


def changed(**changes: Any) -> Write:
    def write(path: Path, folder: Path) -> None:
        settings = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(settings | changes))

    return write


def beside(name: str, content: bytes, setting: Callable[[dict[str, Any], str], None]) -> Write:
    """A setting that names a file with that content."""

    def write(path: Path, folder: Path) -> None:
        (folder / name).write_bytes(content)
        settings = yaml.safe_load(path.read_text())
        setting(settings, str(folder / name))
        path.write_text(yaml.safe_dump(settings))

    return write


def _key(settings: dict[str, Any], path: str) -> None:
    settings["endpoints"][0]["api_key"] = f"file:{path}"


def _ca(settings: dict[str, Any], path: str) -> None:
    settings["endpoints"][0]["ca_file"] = path


def _models(settings: dict[str, Any], path: str) -> None:
    settings["models_file"] = path


WRONG: dict[str, tuple[Write, str]] = {
    "no file": (removed, "cannot be read: No such file"),
    "an empty file": (emptied, "endpoints: missing"),
    "a folder": (a_folder, "cannot be read"),
    "a link to nothing": (a_link_to_nothing, "cannot be read"),
    "a link to itself": (a_link_to_itself, "cannot be read"),
    "noise": (noise, "is not valid YAML"),
    "an endless file": (endless, "larger than 1MiB"),
    "bottomless nesting": (bottomless, "is not valid YAML"),
    "a secret that is not there": (
        changed(
            endpoints=[{"name": "up", "base_url": "http://127.0.0.1:1", "api_key": "file:/no/such"}]
        ),
        "endpoints[0].api_key",
    ),
    "an empty secret": (beside("key", b"", _key), "is empty"),
    "a secret that is none": (beside("key", b"two words\xff", _key), "holds blanks"),
    "a CA file without one": (beside("ca.pem", b"no certificate", _ca), "endpoints[0].ca_file"),
    "half a CA file": (
        beside("ca.pem", b"-----BEGIN CERTIFICATE-----\nMIIB", _ca),
        "endpoints[0].ca_file",
    ),
    "model records that are none": (beside("models.yaml", b"models: [1, 2]", _models), "models"),
    "model records that are no YAML": (beside("models.yaml", b"models: [", _models), "models_file"),
    "model records without end": (
        beside("models.yaml", b"[" * 50_000, _models),
        "models_file: maximum recursion",
    ),
    "model records that are no text": (beside("models.yaml", b"\xff\xfe\x00", _models), "models_"),
    "model records that are no mapping": (beside("models.yaml", b"text", _models), "models_file"),
}


@asynccontextmanager
async def in_use(folder: Path) -> AsyncIterator[tuple[Reloading, ScriptedUpstream]]:
    """A proxy whose one route has a model of its own."""
    async with ScriptedUpstream(Told()) as upstream:
        routes = [{"name": "plain", "candidates": [{"model": PLAIN}]}]
        place = endpoint(upstream, folder)
        async with reloading(folder, endpoints=[place], routes=routes) as proxy:
            yield proxy, upstream


async def model_served(proxy: Reloading) -> str:
    answer = await ask(proxy.app.data_address, CHAT, chat())
    assert answer.status == 200
    assert answer.clean
    return answer.headers["x-glm-proxy-model"]


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_cannot_be_read_leaves_the_settings_as_they_are(
    tmp_path: Path, wrong: str
) -> None:
    write, words = WRONG[wrong]
    async with in_use(tmp_path) as (proxy, _):
        house, good = proxy.app.house, proxy.path.read_bytes()
        write(proxy.path, tmp_path)
        with pytest.raises((CannotReload, ConfigError)) as refused:
            await proxy.reread()
        assert words in str(refused.value)
        assert proxy.app.house is house
        assert await model_served(proxy) == PLAIN
        if proxy.path.is_dir():
            proxy.path.rmdir()
        proxy.path.unlink(missing_ok=True)
        proxy.path.write_bytes(good)
        await proxy.reread()
        assert proxy.app.house is not house


async def test_a_file_that_is_gone_between_check_and_use_is_a_refusal(tmp_path: Path) -> None:
    """`load` has seen them; what is built of them reads them again."""
    models, ca = tmp_path / "models.yaml", tmp_path / "ca.pem"
    models.write_text(bundled("models.yaml").read_text())
    async with (
        ScriptedUpstream(Told(), h2=True) as trusted,
        in_use(tmp_path) as (proxy, _),
    ):
        ca.write_bytes(trusted.write_ca(tmp_path).read_bytes())
        other = endpoint(trusted, tmp_path, name="other", ca_file=str(ca))
        settings = {**proxy.settings, "models_file": str(models)}
        settings["endpoints"] = [*settings["endpoints"], {**other, "ca_file": str(ca)}]
        proxy.path.write_text(yaml.safe_dump(settings))
        config, house = load(proxy.path, {}), proxy.app.house
        models.unlink()
        ca.unlink()
        with pytest.raises(CannotReload) as refused:
            await proxy.app.reload(config)
        assert [one.where for one in refused.value.problems] == [
            "models_file",
            "endpoints[1].ca_file",
        ]
        assert proxy.app.house is house


async def test_a_link_that_is_turned_to_another_file_is_followed(tmp_path: Path) -> None:
    """As Kubernetes changes what it has mounted."""
    async with in_use(tmp_path) as (proxy, _):
        versions = []
        for number in range(2):
            folder = tmp_path / f"version-{number}"
            folder.mkdir()
            routes = [{"name": "plain", "candidates": [{"model": f"now-{number}"}]}]
            text = yaml.safe_dump({**proxy.settings, "routes": routes})
            (folder / "proxy.yaml").write_text(text)
            versions.append(folder)
        proxy.path.unlink()
        link = tmp_path / "current"
        link.symlink_to(versions[0])
        proxy.path.symlink_to(link / "proxy.yaml")
        await proxy.reread()
        assert await model_served(proxy) == "now-0"
        turned = tmp_path / "turned"
        turned.symlink_to(versions[1])
        os.replace(turned, link)
        await proxy.reread()
        assert await model_served(proxy) == "now-1"


# --- mutations ---------------------------------------------------------------------------------

FULL = """\
server: {port: 0, drain_timeout: 0, body_limit: 1MiB, header_timeout: 5s, keepalive_timeout: 1m}
admin: {port: 0, hosts: [proxy.internal], exchanges: 500}
limits:
  total: {requests_per_minute: 100000, concurrent: 1000}
  per_key: {tokens_per_minute: 100000000}
endpoints:
  - name: up
    region: moon
    base_url: UPSTREAM
    api_key: env:TEAM_KEY
    key_groups: {spare: [env:ZAI_API_KEY, env:ZHIPUAI_API_KEY]}
  - {name: other, base_url: UPSTREAM/other, api_keys: [env:ZAI_API_KEY, env:ZHIPUAI_API_KEY]}
pool: {http2: auto, warm_connections: 1, streams_per_connection: 8, idle_timeout: 30s}
stream: {text_buffer_size: 1, heartbeat: 10s, client_stall: 20s}
timeouts: {first_token: 10s, idle: 20s, total: 5m}
attempts: {retries: 1, retry_budget: 10%, breaker: {failures: 5, within: 10s, open_for: 5s}}
admission: {limit: learned, wait: 10s}
hedge: {after: p90, min: 800ms, budget: 5%}
commit: late
routes:
  - name: plain
    match: {model: ["glm-*"], path: ["/v1/*"], max_prompt: 1MiB}
    candidates: [{model: now-plain, endpoint: up, keys: spare}, {model: now-other, endpoint: other}]
    params: {fill: {temperature: 0.5}, force: {thinking: disabled}}
    timeouts: {first_token: 5s}
    attempts: {retries: 2, breaker: off}
    hedge: off
  - {name: shared, match: {header: {x-team: "a*"}}, share: true, commit: early}
log: {format: off, level: info, sample: 50%}
metrics: {enabled: true}
tracing: off
"""
BASES = ("full", "proxy.yaml", "fast.yaml", "demo.yaml")
VALUES = (
    *("", "~", "true", "off", "no", "-1", "0", "1", "99999999999", "1e999", ".nan", "3.5", "10s"),
    *("-5s", "5%", "101%", "p101", "text", '"text"', "[]", "{}", "[1, [2, [3]]]", "{a: {b: c}}"),
    *("&x [*x]", "*x", "!!python/object:os.system {}", "!!binary aGk=", "!!set {a, b}", "<<: 1"),
    *("2001-13-45", "2001-12-14t21:59:43.10-05:00", "0o17", "0x1f", "1:30", "é", "\\x00", '"\\0"'),
    *("env:NOT_SET", "file:/no/such", "file:", "env:", "redis://x", "http://x", "127.0.0.1", "::1"),
    *("|\n  block", ">\n  folded", "'", '"', "[", "{", "]", "%", "@", "`", "\t", "? a", "- b", "#"),
)


def text_of(name: str, upstream: str) -> str:
    """Settings to begin with, of which the one endpoint there is serves all."""
    if name == "full":
        return FULL.replace("UPSTREAM", upstream)
    text = bundled(name).read_text()
    text = re.sub(r"https?://[\w.:-]+", upstream, text)
    text = re.sub(r"(?m)^(\s+format:) \w+", r"\1 off", text)
    text = re.sub(r"(?m)^(\s+port:) \d+", r"\1 0", text)
    if "\n  port:" not in text:
        text = text.replace("\nserver:\n", "\nserver:\n  port: 0\n")
    fixed = {"server": "{port: 0}", "admin": "{port: 0}", "log": "{format: off}"}
    missing = [name for name in fixed if f"\n{name}:" not in text]
    return text + "".join(f"{name}: {fixed[name]}\n" for name in missing)


def mutated(text: str, rng: random.Random) -> str:
    """The text after one or more accidents."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        text = rng.choice(ACCIDENTS)(text, rng)
    return text


def _without_lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    start = rng.randrange(len(lines) + 1)
    return "".join(lines[:start] + lines[start + rng.randint(1, 4) :])


def _with_lines_twice(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    start = rng.randrange(len(lines) + 1)
    return "".join(lines[: start + rng.randint(1, 4)] + lines[start:])


def _cut_off(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


def _with_another_value(text: str, rng: random.Random) -> str:
    places = list(re.finditer(r"(?<=: )[^\s,{}\[\]]+", text))
    if not places:
        return text
    place = rng.choice(places)
    return text[: place.start()] + rng.choice(VALUES) + text[place.end() :]


def _with_another_key(text: str, rng: random.Random) -> str:
    places = list(re.finditer(r"\w+(?=:)", text))
    if not places:
        return text
    place, other = rng.choice(places), rng.choice(places)
    word = rng.choice((other[0], place[0][:-1], "unknown", "1", "~", "? [a]"))
    return text[: place.start()] + word + text[place.end() :]


def _with_noise(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + chr(rng.choice((0, 9, 10, 32, 34, 58, 123, 0xFEFF, 0x1F600))) + text[at:]


def _without_a_piece(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + text[at + rng.randint(1, 30) :]


def _indented_otherwise(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    if not lines:
        return text
    at = rng.randrange(len(lines))
    lines[at] = rng.choice((" " + lines[at], lines[at].lstrip(" "), "\t" + lines[at]))
    return "".join(lines)


ACCIDENTS = (
    _without_lines,
    _with_lines_twice,
    _cut_off,
    _with_another_value,
    _with_another_value,
    _with_another_key,
    _with_noise,
    _without_a_piece,
    _indented_otherwise,
)


def mutations(upstream: str, count: int) -> Iterator[str]:
    rng = random.Random(20260113)
    texts = [text_of(name, upstream) for name in BASES]
    for number in range(count):
        yield mutated(texts[number % len(texts)], rng)


class Whole:
    """Holds what is in use against the one whole set of settings that it has to be."""

    def __init__(self, proxy: Reloading) -> None:
        self.app = proxy.app
        self.path = proxy.path
        self.used = self.refused = 0

    async def try_out(self, text: str) -> None:
        before = self.app.house
        was = before.config.model_dump_json()
        self.path.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            await self.app.reload(load(self.path, ENVIRON))
        except (ConfigError, CannotReload) as error:
            problems: tuple[Problem, ...] | None = error.problems
        else:
            problems = None
        if problems is None:
            self.used += 1
            self.hangs_together()
        else:
            self.refused += 1
            assert problems, text
            assert all(problem.text for problem in problems), text
            assert self.app.house is before, text
            assert self.app.config.model_dump_json() == was, text

    def hangs_together(self) -> None:
        """Everything in the house is of the same settings: those of the file."""
        house = self.app.house
        assert house.config == load(self.path, ENVIRON)
        names = [one.name for one in house.config.endpoints]
        assert list(house.upstreams) == names
        routes = [rule.name for rule in house.config.routes]
        for name in routes:
            route = house.router.named(name, "glm-4.6")
            assert {one.endpoint.name for one in route.candidates} <= set(names)
            for candidate in route.candidates:
                house.knowledge.keys(candidate)


async def try_mutations(folder: Path, count: int) -> Whole:
    """`count` mutations one after the other; in between a request shows what is in use."""
    async with in_use(folder) as (proxy, upstream):
        whole = Whole(proxy)
        good = proxy.path.read_bytes()
        for number, text in enumerate(mutations(upstream.url, count)):
            await whole.try_out(text)
            if number % 25 == 0:
                proxy.path.write_bytes(good)
                await proxy.reread()
                assert await model_served(proxy) == PLAIN
        return whole


@pytest.mark.parametrize("name", BASES)
async def test_what_is_mutated_can_be_used_as_it_is(tmp_path: Path, name: str) -> None:
    async with in_use(tmp_path) as (proxy, upstream):
        whole = Whole(proxy)
        await whole.try_out(text_of(name, upstream.url))
        assert whole.used


async def test_mutated_settings_are_used_whole_or_refused_in_words(tmp_path: Path) -> None:
    whole = await try_mutations(tmp_path, 300)
    assert whole.used > 10
    assert whole.refused > 100


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_ten_thousand_mutated_settings_are_used_whole_or_refused_in_words(
    tmp_path: Path,
) -> None:
    whole = await try_mutations(tmp_path, 10_000)
    assert whole.used > 300
    assert whole.refused > 3000


async def test_every_fourth_beginning_of_a_file_is_used_whole_or_refused(tmp_path: Path) -> None:
    await try_beginnings(tmp_path, 40)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BASES)
async def test_a_file_that_is_written_byte_by_byte_is_used_whole_or_refused(
    tmp_path: Path, name: str
) -> None:
    await try_beginnings(tmp_path, 1, name)


async def try_beginnings(folder: Path, step: int, name: str = "full") -> None:
    async with in_use(folder) as (proxy, upstream):
        whole = Whole(proxy)
        text = text_of(name, upstream.url)
        for end in range(0, len(text), step):
            await whole.try_out(text[:end])
        await whole.try_out(text)
        assert whole.app.config == load(whole.path, ENVIRON)
        assert whole.refused
