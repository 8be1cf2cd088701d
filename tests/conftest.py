"""What all tests share: the event loop of production, and programs that may be missing."""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import trustme
import uvloop

from proxy.core.record import Record
from proxy.observe.metrics import Metrics
from tests import alone

# Debian's package of each program a test may ask for.
PACKAGES = {
    "caddy": "caddy",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "h2load": "nghttp2-client",
    "haproxy": "haproxy",
    "nghttpx": "nghttp2-proxy",
    "nginx": "nginx",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "redis-cli": "redis-tools",
    "redis-server": "redis-server",
    "systemd-analyze": "systemd",
}

_homes = itertools.count()

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

_missing: Counter[str] = Counter()


def pytest_asyncio_loop_factories() -> Mapping[str, LoopFactory]:
    """Tests run on uvloop, as the proxy does."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark those that measure time, before anything is chosen by its marks."""
    files = alone.files()
    for item in items:
        if item.path in files:
            item.add_marker("alone")


def pytest_collection_finish(session: pytest.Session) -> None:
    """All tests and modules are there: the collector need not look at them again each time.

    Some tests collect on purpose, and it took them longer the more tests there were. Hypothesis
    is loaded before: of a random source that is frozen it takes it that nobody refers to it.
    """
    importlib.import_module("hypothesis")
    _freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """The same for what is told of tests that are over, after each file."""
    yield
    if nextitem is None or nextitem.path != item.path:
        _freeze()


def _freeze() -> None:
    """What is garbage goes first, and complains if it was not closed."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What commands keep in the user's state folder is of one test only."""
    folder = tmp_path_factory.getbasetemp() / f"state-{next(_homes)}"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))


@pytest.fixture(scope="session")
def _nobodys_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(autouse=True)
def _few_root_certificates(monkeypatch: pytest.MonkeyPatch, _nobodys_certificate: Path) -> None:
    """One authority that has certified nobody in the place of all that this machine trusts.

    To read those takes 30 ms for each context, longer than most tests, and no test speaks to
    anybody with a certificate of theirs.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(_nobodys_certificate))
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """The records of all exchanges that are over, as the metrics get them."""
    found: list[Record] = []
    finish = Metrics.finish

    def keep(metrics: Metrics, record: Record) -> None:
        found.append(record)
        finish(metrics, record)

    monkeypatch.setattr(Metrics, "finish", keep)
    return found


@pytest.fixture
def needs_program() -> Callable[[str], str]:
    """`needs_program("nginx")` is the program's path; without the program the test is skipped."""

    def find(name: str) -> str:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
        if path is None:
            _missing[name] += 1
            pytest.skip(f"{name} is not installed")
        return path

    return find


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was skipped for a missing program, and the one command that installs it."""
    if not _missing:
        return
    packages = sorted({PACKAGES[name] for name in _missing})
    terminalreporter.section("skipped for a missing program")
    for name, count in sorted(_missing.items()):
        terminalreporter.line(f"{name}: {count} test{'s' if count > 1 else ''}")
    terminalreporter.line(f"to run them: apt-get install -y {' '.join(packages)}")
