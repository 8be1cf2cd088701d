"""Markdown of the suites' reports, and what both have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from proxy import __version__
from proxy.bench.suite.conditions import Conditions

LANGUAGES = ("en", "zh")
Words = Mapping[str, str]
"""All sentences of one report in one language, by name; `{...}` are numbers to be filled in."""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A table; the first columns are text, the others numbers."""
    rule = "|" + "---|" * text_columns + "--:|" * (len(heads) - text_columns)
    return "\n".join([line(heads), rule, *map(line, rows)])


def line(cells: Sequence[str]) -> str:
    """One line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def bullets(texts: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {text}" for text in texts)


def seconds(value: float | None, digits: int = 2) -> str:
    """A number of seconds, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def times(value: float | None) -> str:
    """A factor, or a dash."""
    return "–" if value is None else f"{value:.1f} ×"


def percent(value: float | None, digits: int = 1) -> str:
    """A share, or a dash."""
    return "–" if value is None else f"{value * 100:.{digits}f} %"


def environment(words: Words, conditions: Conditions, command: str) -> str:
    """Where and how it was measured, and whether the machine had time for it."""
    c = conditions
    busy, own = (
        words["not_known"] if share is None else percent(share, 0) for share in (c.busy, c.own)
    )
    facts = [
        words["env_version"].format(version=__version__, machine=c.machine),
        words["env_scale"].format(scale=c.time_scale, factor=1 / c.time_scale),
        words["env_requests"].format(requests=c.requests, seed=c.seed, took=c.took),
        words["env_busy"].format(busy=busy, own=own, late=c.late * 1000),
        words["env_command"].format(command=command),
    ]
    if c.busy is not None and c.busy > _TOO_BUSY:
        facts.append(words["env_too_busy"].format(limit=percent(_TOO_BUSY, 0)))
    return bullets(facts)


_TOO_BUSY = 0.6
"""Above this share of the processors, waiting for one of them is in the figures."""


COMMON: Mapping[str, dict[str, str]] = {
    "en": {
        "not_known": "not known",
        "environment": "Test environment",
        "goals": "Goals",
        "reached": "reached",
        "not_reached": "**not reached**",
        "goal_heads": "goal;expected;actual;",
        "env_version": "glm-proxy {version}; {machine}",
        "env_scale": (
            "time scale {scale:g}: every wait of the simulated service and every duration in the"
            " proxy's settings is {scale:g} times its length, and what was measured is divided by"
            " it again. The machine's own milliseconds (TLS, Python) are not scaled, so each of"
            " them shows as {factor:.3g}: figures in seconds are rather too slow, on every way"
        ),
        "env_requests": "{requests} requests each, seed {seed}, {took:.0f} s in all",
        "env_busy": (
            "processors in use: {busy}, {own} by this suite alone; the client's own timers were"
            " at most {late:.1f} ms late, in 99 of 100 cases"
        ),
        "env_command": "repeat it: `{command}`",
        "env_too_busy": (
            "**the machine was more than {limit} busy: figures of milliseconds say little**"
        ),
    },
    "zh": {
        "not_known": "未知",
        "environment": "测试环境",
        "goals": "目标达成情况",
        "reached": "已达成",
        "not_reached": "**未达成**",
        "goal_heads": "目标;预期;实际;",
        "env_version": "glm-proxy {version}；{machine}",
        "env_scale": (
            "时间比例 {scale:g}：模拟服务的每一段等待、代理配置里的每一个时长都按 {scale:g} 倍缩短"
            "，测得的数值再除以这个比例还原。机器自身的毫秒（TLS 握手、Python）不缩放，所以每 1 毫"
            "秒会显示成 {factor:.3g} 毫秒：以秒计的数字在每一条路径上都只会偏慢，不会偏快"
        ),
        "env_requests": "每项 {requests} 个请求，随机种子 {seed}，总用时 {took:.0f} 秒",
        "env_busy": (
            "处理器占用 {busy}，其中本测试自身 {own}；测试客户端自己的定时器在 99% 的情况下最多晚"
            " {late:.1f} 毫秒"
        ),
        "env_command": "复现命令：`{command}`",
        "env_too_busy": "**机器占用超过 {limit}：毫秒级的数字参考价值有限**",
    },
}


def goal_table(words: Words, rows: Iterable[tuple[str, str, str, bool]]) -> str:
    """Goal, expected, actual, and whether it is reached."""
    heads = words["goal_heads"].split(";")
    told = ([a, b, c, words["reached" if kept else "not_reached"]] for a, b, c, kept in rows)
    return table(heads, told)
