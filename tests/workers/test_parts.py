"""The small parts of a master: its pace, its count of processors, what it tells a worker."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from proxy.config import Config, Endpoint, Problem, load
from proxy.workers import channel
from proxy.workers.activation import Systemd
from proxy.workers.channel import Channel, Message, packed, unpacked
from proxy.workers.cpus import _quota, usable
from proxy.workers.crew import Crew, Worker
from proxy.workers.pace import Pace
from proxy.workers.reload import Reload
from proxy.workers.successor import Command

CANARY = "sk-canary.0123456789abcdef"


def test_a_worker_that_lived_is_followed_at_once_and_others_after_a_pause() -> None:
    pace = Pace()
    pace.ended(100.0, lived=60.0)
    assert pace.next <= 100.0
    pauses = []
    for _ in range(10):
        pace.ended(100.0, lived=0.0)
        pauses.append(pace.next - 100.0)
    assert pauses[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert pauses[-1] == 10.0
    pace.ended(200.0, lived=60.0)
    assert pace.next <= 200.0


@pytest.mark.parametrize(
    ("limits", "processors"),
    [
        ({"": "max 100000", "a": "max 100000", "a/b": "max 100000"}, None),
        ({"a": "200000 100000", "a/b": "max 100000"}, 2.0),
        ({"a": "200000 100000", "a/b": "50000 100000"}, 0.5),
        ({"a/b": "nonsense"}, None),
        ({}, None),
    ],
)
def test_the_narrowest_group_says_how_much_time_there_is(
    tmp_path: Path, limits: dict[str, str], processors: float | None
) -> None:
    (tmp_path / "mount" / "a" / "b").mkdir(parents=True)
    for group, text in limits.items():
        (tmp_path / "mount" / group / "cpu.max").write_text(f"{text}\n")
    (tmp_path / "cgroup").write_text("0::/a/b\n")
    assert _quota(tmp_path / "mount", tmp_path / "cgroup") == processors
    assert _quota(tmp_path / "mount", tmp_path / "nothing") is None
    assert 1 <= usable() <= len(os.sched_getaffinity(0))


def test_a_successor_is_started_as_its_master_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script by its own name: its first line may name another Python by then."""
    script = tmp_path / "glm-proxy"
    script.touch(0o755)
    monkeypatch.setattr(sys, "orig_argv", ["/old/python", str(script), "serve", "--port", "1"])
    assert Command.own({}).words == [str(script), "serve", "--port", "1"]
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "proxy", "serve"])
    assert Command.own({}).words == [sys.executable, "-m", "proxy", "serve"]


def test_settings_cross_with_their_secrets_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("endpoints: [{name: a, base_url: 'https://a.example', api_key: 'env:KEY'}]")
    config = load(path, {"KEY": CANARY})
    here, there = Channel.pair()
    assert here.send(channel.SETTINGS, packed(config))
    message = there.receive()
    assert message is not None
    copy = unpacked(message.data)
    assert copy == config
    key = copy.endpoints[0].api_key
    assert key is not None
    assert key.reveal() == CANARY
    assert CANARY not in f"{copy!r} {copy}"
    here.close()
    there.close()


def test_reasons_cross_as_text() -> None:
    """They come from workers too, and the master runs nothing that a worker says."""
    problems = (Problem("server.port", "found 'a', \udcff"), Problem("", "none", 3))
    text = channel.problems_text(problems)
    assert text.isascii()
    assert channel.problems_of(text) == problems


def test_a_channel_never_waits_and_says_when_there_is_nobody() -> None:
    here, there = Channel.pair()
    assert there.receive() is None
    assert here.send("a")
    assert here.send("b", b"x" * 5_000_000)
    assert there.receive() == Message("a")
    assert there.receive() == Message("b", b"x" * 5_000_000)
    for _ in range(100_000):
        if not here.send("beat"):
            break
    else:
        pytest.fail("a reader that does not read would hold the writer up")
    there.close()
    assert not here.send("a")
    with pytest.raises(EOFError):
        here.receive()
    here.close()


def test_a_silent_worker_is_killed_but_not_when_the_master_was_held_up_itself() -> None:
    def nothing(_: Channel) -> int:
        time.sleep(60)
        return 0

    crew = Crew(nothing, close=lambda: None)
    now = time.monotonic()
    worker = crew.spawn(now, 0)
    try:
        crew.end_hung(now + 0.5)
        crew.end_hung(now + 600.0)  # suspended, or stopped: nobody could say anything
        for second in range(7):
            crew.end_hung(now + 600.5 + second)
        assert crew.all
        assert list(crew.bury()) == []
        crew.end_hung(now + 608.0)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        ((pid, ended),) = crew.bury()
        assert (pid, ended.worker, ended.how) == (worker.pid, worker, "SIGKILL")
        assert not crew.all
    finally:
        if crew.all:
            os.kill(worker.pid, signal.SIGKILL)


def test_a_worker_that_comes_while_settings_are_tried_gets_those_in_use() -> None:
    first, second, third = (
        Config(endpoints=(Endpoint(name=name, base_url="http://127.0.0.1:1"),)) for name in "abc"
    )
    crew = Crew(lambda _: 0, close=lambda: None)
    there = {}
    for pid in (1, 2):
        here, there[pid] = Channel.pair()
        crew.all[pid] = Worker(pid, here, 0.0, 0.0, settings=0, ready=pid == 1)
    fresh = iter((second, third))
    reload = Reload(first, lambda: next(fresh), crew, Systemd({}))

    def given(pid: int) -> list[str]:
        found = []
        while (message := there[pid].receive()) is not None:
            if message.kind == channel.SETTINGS:
                found.append(unpacked(message.data).endpoints[0].name)
        return found

    reload.begin()
    reload.answered(crew.all[1], Message(channel.RELOADED))
    reload.begin()  # the third are being tried by the first worker
    crew.all[2].ready = True
    reload.catch_up(crew.all[2])
    assert (given(1), given(2)) == (["b", "c"], ["b"])
    reload.answered(crew.all[1], Message(channel.RELOADED))
    assert given(2) == ["c"]
    for pid, worker in crew.all.items():
        worker.channel.close()
        there[pid].close()
