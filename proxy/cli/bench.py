"""`glm-proxy bench`: the stages of the first token, through the proxy and past it; and suites."""

from __future__ import annotations

import os
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import uvloop
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from proxy.bench.measure import Sample
from proxy.bench.plan import DIALECTS, Plan, Way
from proxy.bench.report import as_json, markdown
from proxy.bench.run import run
from proxy.bench.suite.writing import LANGUAGES
from proxy.config.secret import Secret, Sources, resolve

DEFAULT_PROMPT = "请介绍机器学习的基本概念"
WRITABLE = click.Path(dir_okay=False, writable=True, path_type=Path)
READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)
COUNT = click.IntRange(min=1)
REQUESTS = 20
Click = click.Context | None
OnSample = Callable[[Sample], None]
_OF_SUITES = frozenset({"suite", "lang", "time_scale"})
_OF_BOTH = frozenset({"requests", "seed", "json_file", "markdown_file"})


def _base_url(ctx: Click, param: click.Parameter | None, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        _ = parts.port  # a wrong port is only noticed when asked for
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.BadParameter("must be a base URL such as http://127.0.0.1:8080/v1")
    if parts.query or parts.fragment or parts.username:
        raise click.BadParameter("must have no query, fragment or user name")
    return value


def _api_key(ctx: Click, param: click.Parameter | None, value: str | None) -> Secret | None:
    if value is None:
        return None
    try:
        return resolve(value, Sources(os.environ, Path.cwd()))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _trust(ctx: Click, param: click.Parameter | None, value: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if value is not None:
        try:
            context.load_verify_locations(cafile=value)
        except (ssl.SSLError, OSError) as error:
            raise click.BadParameter(f"{value} holds no certificates: {error}") from None
    return context


def _in_a_folder(ctx: Click, param: click.Parameter | None, value: Path | None) -> Path | None:
    """Noticed before the run, not after it."""
    if value is not None and not value.parent.is_dir():
        raise click.BadParameter(f"there is no folder {value.parent}")
    return value


def _lines(ctx: Click, param: click.Parameter | None, value: Path | None) -> list[str]:
    if value is None:
        return []
    try:
        lines = [line.strip() for line in value.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value} cannot be read: {error}") from None
    if not any(lines):
        raise click.BadParameter(f"{value} holds no prompt")
    return [line for line in lines if line]


@click.command()
@click.argument("url", required=False, callback=_base_url)
@click.option(
    "--suite",
    type=click.Choice(("lumosai", "tail")),
    help="Instead of a URL: measure before a simulated service that is started for it.",
)
@click.option(
    "--lang",
    type=click.Choice(LANGUAGES),
    default="en",
    show_default=True,
    help="Of a suite's report.",
)
@click.option(
    "--time-scale",
    type=click.FloatRange(min=0.01, max=1.0),
    help="Of a suite: so much of every wait. Default: lumosai 0.1, tail 0.65.",
)
@click.option("--against", metavar="URL", callback=_base_url, help="Compare with this base URL.")
@click.option("--model", default="glm-4-flash", show_default=True)
@click.option("--requests", type=COUNT, help=f"Each way. Default: {REQUESTS}; suite tail 2000.")
@click.option("--concurrency", type=COUNT, default=1, show_default=True)
@click.option("--prompt", help="What to ask. Default: to introduce machine learning, in Chinese.")
@click.option("--prompts", type=READABLE, callback=_lines, help="File of prompts, one a line.")
@click.option("--max-tokens", type=COUNT, default=1024, show_default=True)
@click.option("--api-key", metavar="env:NAME", callback=_api_key, help="Also file:PATH.")
@click.option("--dialect", type=click.Choice(sorted(DIALECTS)), default="openai", show_default=True)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="For one whole answer, in seconds.",
)
@click.option("--fresh-connections", is_flag=True, help="A new connection for each request.")
@click.option("--ca-file", "tls", type=READABLE, callback=_trust, help="Certificates to trust too.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the order of the ways.")
@click.option(
    "--json", "json_file", type=WRITABLE, callback=_in_a_folder, help="Write all figures here."
)
@click.option(
    "--markdown",
    "markdown_file",
    type=WRITABLE,
    callback=_in_a_folder,
    help="Write the report here too.",
)
@click.pass_context
def command(ctx: click.Context, /, url: str | None, suite: str | None, **options: Any) -> None:
    """Measure streamed answers of URL, stage by stage.

    URL is a base URL as an SDK is given it: http://127.0.0.1:8080/v1 for a proxy here,
    https://api.z.ai/api/paas/v4 for the API. With --against, both are asked the same in turn and
    compared. Exit codes: 0 all answers were complete, 1 some were not, 2 wrong arguments.

    With --suite nothing but this machine is asked, and 0 is a run that came to its end, whether
    its goals were reached or not. lumosai: the scenes, the ways and the levers of one report on
    slow first tokens. tail: a service of which a few answers are slow, then all, and that is gone
    for a while.
    """
    given = {
        name
        for name in ctx.params
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
        and name not in _OF_BOTH | {"url"}
    }
    if (url is None) == (suite is None):
        raise click.UsageError("give a URL or --suite")
    wrong = given - _OF_SUITES if suite else given & _OF_SUITES
    if wrong:
        told = " ".join(sorted(_spelling(ctx, name) for name in wrong))
        raise click.UsageError(f"{told}: not with {'--suite' if suite else 'a URL'}")
    sys.exit(_suite(suite, **options) if suite else _url(str(url), **options))


def _spelling(ctx: click.Context, name: str) -> str:
    """An option as it is written on the command line."""
    return next(param.opts[0] for param in ctx.command.params if param.name == name)


def _suite(
    name: str,
    *,
    lang: str,
    time_scale: float | None,
    requests: int | None,
    seed: int,
    json_file: Path | None,
    markdown_file: Path | None,
    **_: object,
) -> int:
    """Measures a suite and tells it; the exit code."""
    from proxy.cli.demo.children import NotRunning
    from proxy.cli.demo.children import run as run_children
    from proxy.cli.suite import suite

    chosen = suite(name)
    wanted = requests or chosen.requests

    async def work() -> int:
        scale = time_scale or chosen.time_scale
        with _progress(chosen.total(wanted)) as on_sample:
            found = await chosen.measure(wanted, scale, seed, on_sample)
        _write(chosen.markdown(found, lang), chosen.as_json(found), markdown_file, json_file)
        return 0

    try:
        return run_children(work())
    except NotRunning as error:
        click.echo(f"glm-proxy bench: {error}", err=True)
        return 1


def _url(
    url: str,
    *,
    against: str | None,
    requests: int | None,
    prompt: str | None,
    prompts: list[str],
    dialect: str,
    api_key: Secret | None,
    tls: ssl.SSLContext,
    json_file: Path | None,
    markdown_file: Path | None,
    **options: Any,
) -> int:
    """Measures a URL and tells it; the exit code."""
    if prompt is not None and prompts:
        raise click.UsageError("give --prompt or --prompts, not both")
    plan = Plan(
        ways=(Way("direct", against), Way("proxied", url)) if against else (Way("measured", url),),
        prompts=tuple(prompts) or (prompt or DEFAULT_PROMPT,),
        requests=requests or REQUESTS,
        dialect_name=dialect,
        api_key=api_key.reveal() if api_key is not None else None,
        **{name: value for name, value in options.items() if name not in _OF_SUITES},
    )
    with _progress(plan.requests * len(plan.ways)) as on_sample:
        found = uvloop.run(run(plan, tls, time.perf_counter, on_sample))
    if found.stopped and not any(sample.complete for sample in found.samples):
        click.echo(f"glm-proxy bench: {found.stopped}", err=True)
    else:
        _write(markdown(plan, found), as_json(plan, found), markdown_file, json_file)
    return 1 if found.failed else 0


@contextmanager
def _progress(total: int) -> Iterator[OnSample]:
    """A bar on standard error while it is a terminal, and nothing otherwise."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    failed = 0

    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("requests", total=total)

        def on_sample(sample: Sample) -> None:
            nonlocal failed
            failed += not sample.complete
            bar.update(task, advance=1, description=f"requests, {failed} failed")

        yield on_sample


def _write(text: str, data: str, markdown_file: Path | None, json_file: Path | None) -> None:
    click.echo(text, nl=False)
    if markdown_file is not None:
        markdown_file.write_text(text, "utf-8")
    if json_file is not None:
        json_file.write_text(data, "utf-8")
