"""`glm-proxy models`: what is served by what, and models switched where the settings keep it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import group
from proxy.cli.settings import actor

ENDPOINTS = """
endpoints:
- {name: cn, base_url: https://open.bigmodel.cn}
- {name: global, base_url: https://api.z.ai}
"""
ROUTES = """
routes:
- name: fast
  match: {model: ["glm-4.6", "glm-4.5*"], stream: true}
  candidates: [{model: glm-4-flash, endpoint: cn}, {model: glm-4-air}]
  params: {force: {thinking: disabled}}
"""
FAST = [
    "glm-4.6, glm-4.5*; streaming",
    "glm-4-flash at cn, then glm-4-air at cn or global",
    "thinking=disabled",
    "fast",
]
REST = ["anything else", "as asked at cn, then as asked at global", "default"]


def run(*arguments: str) -> Result:
    environ = {"COLUMNS": "250"}
    return CliRunner().invoke(group, ["models", *arguments], env=environ)


def rows(result: Result) -> list[list[str]]:
    """The cells of the table, without its head."""
    lines = [line.split("  ") for line in result.stdout.splitlines()]
    return [[cell.strip() for cell in line if cell.strip()] for line in lines][1:]


@pytest.fixture
def settings(tmp_path: Path) -> str:
    """Where no state is named: each command finds the same home."""
    path = tmp_path / "settings.yaml"
    path.write_text(ENDPOINTS + ROUTES)
    return str(path)


@pytest.mark.parametrize("command", [(), ("show",)])
def test_every_candidate_is_shown_in_the_order_it_is_tried(
    settings: str, command: tuple[str, ...]
) -> None:
    result = run(*command, "--config", settings)
    assert (result.exit_code, result.stderr) == (0, "")
    assert rows(result) == [FAST, REST]


def test_without_routes_every_model_is_as_asked() -> None:
    assert rows(run()) == [["any model", "as asked at cn", "default"]]


def test_conditions_and_key_groups_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        ENDPOINTS.replace("{name: cn,", "{name: cn, key_groups: {paid: [file:key]},")
        + """
routes:
- name: paid
  match: {key: ["team-*"], min_prompt: 1KiB}
  candidates: [{endpoint: cn, keys: paid}, {model: b}]
- {name: all, candidates: [{endpoint: cn}]}
"""
    )
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("a.key")
    assert rows(run("--config", str(path))) == [
        [
            *("any model; key team-*; at least 1024 bytes",),
            *("as asked at cn (paid), then b at cn or global", "paid"),
        ],
        ["any model", "as asked at cn", "all"],
    ]


def test_a_switch_is_shown_with_who_and_until_when(settings: str) -> None:
    config = ("--config", settings)
    assert run("set", "glm-4.6", "glm-4.7", "--for", "2h", *config).exit_code == 0
    done = run("set", "own", "glm-4.7", *config)
    assert (done.exit_code, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith("kept in sqlite:/")  # and no warning
    assert done.stdout == "own is served by glm-4.7, until it is reset\n"
    one, other, *rest = rows(run(*config))
    until = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 7200))
    assert one[:4] == [
        *("glm-4.6", "glm-4.7 at cn, then glm-4.7 at global", "thinking=disabled", "fast"),
    ]
    assert one[4].startswith(f"by {actor()}, until {until}")
    assert other == [
        *("own", "glm-4.7 at cn, then glm-4.7 at global", "default"),
        f"by {actor()}, until it is reset",
    ]
    assert rest == [FAST, REST]


def test_show_as_json_is_what_the_admin_api_tells(settings: str) -> None:
    run("set", "glm-4.6", "glm-4.7", "--for", "90m", "--config", settings)
    for command in ((), ("show",)):
        told = json.loads(run(*command, "--json", "--config", settings).stdout)
        (switch,) = told["switches"]
        assert (switch["model"], switch["to"], switch["by"]) == ("glm-4.6", "glm-4.7", actor())
        assert switch["until"] - switch["since"] == 5400
        fast, rest = told["routes"]
        assert (fast["name"], rest["name"]) == ("fast", "default")
        assert fast["match"] == {"model": ["glm-4.6", "glm-4.5*"], "stream": True}
        assert [(one["model"], one["endpoint"]) for one in fast["candidates"]] == [
            *(("glm-4-flash", "cn"), ("glm-4-air", "cn"), ("glm-4-air", "global")),
        ]
        assert [one["model"] for one in rest["candidates"]] == [None, None]


def test_what_has_expired_is_not_shown(settings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = time.time()
    run("set", "glm-4.6", "glm-4.7", "--for", "2h", "--config", settings)
    assert len(rows(run("--config", settings))) == 3
    monkeypatch.setattr(time, "time", lambda: at + 7300)
    assert rows(run("--config", settings)) == [FAST, REST]
    assert run("reset", "--config", settings).stdout == "0 switches undone\n"


@pytest.mark.parametrize(
    ("models", "says", "left"),
    [
        (["a"], "1 switch undone", ["b", "c"]),
        (["a", "c", "nothing"], "2 switches undone", ["b"]),
        (["nothing"], "0 switches undone", ["a", "b", "c"]),
        ([], "3 switches undone", []),
    ],
)
def test_reset_says_how_many(settings: str, models: list[str], says: str, left: list[str]) -> None:
    for model in "abc":
        run("set", model, "glm-4.7", "--config", settings)
    done = run("reset", *models, "--config", settings)
    assert (done.exit_code, done.stdout) == (0, f"{says}\n")
    told = json.loads(run("--json", "--config", settings).stdout)
    assert [one["model"] for one in told["switches"]] == left


def test_a_model_without_a_record_is_set_with_a_warning(settings: str) -> None:
    done = run("set", "glm-4.6", "glm-9-x", "--config", settings)
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: there is no record of 'glm-9-x'")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["set", "a", "a"], "reset it"),
        (["set", "a b", "c"], "1 to 128 printable ASCII"),
        (["set", "a", ""], "1 to 128 printable ASCII"),
        (["set", "a", "模型"], "1 to 128 printable ASCII"),
        (["set", "a", "x" * 129], "1 to 128 printable ASCII"),
        (["reset", "a\nb"], "1 to 128 printable ASCII"),
        (["set", "a", "b", "--for", "2"], "such as 30m, 2h or 7d"),
        (["set", "a", "b", "--for", "0s"], "more than 0"),
        (["set", "a", "b", "--for", "900d"], "at most 366d"),
        (["set", "a"], "Missing argument 'TO'"),
        (["set", "a", "b", "c"], "unexpected extra argument"),
        (["sett"], "No such command"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_changes_nothing(
    settings: str, arguments: list[str], says: str
) -> None:
    config = [] if arguments == ["sett"] else ["--config", settings]
    done = run(*arguments, *config)
    assert done.exit_code == 2
    assert says in done.stderr
    assert json.loads(run("--json", "--config", settings).stdout)["switches"] == []


def test_a_home_that_cannot_be_used_ends_with_1(tmp_path: Path, settings: str) -> None:
    for state, says in (
        (f"sqlite:{settings}", "settings.yaml"),
        ("memory", "only the running proxy itself"),
        ("redis://127.0.0.1:1", "127.0.0.1"),
    ):
        path = tmp_path / "other.yaml"
        path.write_text(f"{ENDPOINTS}{ROUTES}state: {state}\n")
        config = ("--config", str(path))
        for command in (("set", "a", "b"), ("reset",)):
            done = run(*command, *config)
            assert (done.exit_code, done.stdout) == (1, "")
            assert says in done.stderr
            assert "Traceback" not in done.stderr
        shown = run(*config)
        assert shown.exit_code == 1
        assert rows(shown) == [FAST, REST]  # what the settings say is known all the same
        assert says in shown.stderr


def test_wrong_settings_end_with_2(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("endpoints: 7")
    for command in ((), ("show",), ("set", "a", "b"), ("reset",)):
        assert run(*command, "--config", str(path)).exit_code == 2
