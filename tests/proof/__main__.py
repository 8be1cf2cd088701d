"""`python -m tests.proof`: see the package. Exit codes: 0 proved, 1 not, 2 cannot run."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import click
import orjson

from proxy.cli.demo.children import NotRunning, run
from tests.bench import machine
from tests.bench.processes import BenchError
from tests.proof import report
from tests.proof.draw import picture
from tests.proof.draw_data import Time
from tests.proof.run import ROOT, Found, Options, prove

PICTURES = ROOT / "grafana" / "pictures"


@click.command()
@click.option("--exchanges", type=click.IntRange(min=50), default=2000, show_default=True)
@click.option("--rate", type=float, default=12.0, show_default=True, help="Exchanges a second.")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="For the report.")
@click.option("--keep", is_flag=True, help="Keep the processes' settings and logs too.")
@click.option("--pictures", is_flag=True, help="Draw the dashboards into grafana/pictures.")
def command(
    exchanges: int, rate: float, seed: int, output: Path | None, keep: bool, pictures: bool
) -> None:
    """Ask every query of every dashboard and rule of a real Prometheus, under load and faults."""
    program = machine.find("prometheus")
    if program is None:
        click.echo("prometheus is not installed (Debian: apt-get install prometheus)", err=True)
        sys.exit(2)
    into = output or Path(tempfile.mkdtemp(prefix="glm-proxy-proof-"))
    into.mkdir(parents=True, exist_ok=True)
    options = Options(exchanges, rate, program, seed)
    folder = into / "files" if keep else Path(tempfile.mkdtemp(prefix="glm-proxy-proof-"))
    folder.mkdir(exist_ok=True)
    try:
        sys.exit(run(_prove(options, folder, into, pictures)))
    except (NotRunning, BenchError) as error:
        click.echo(f"the proof cannot be run: {error}", err=True)
        sys.exit(2)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


async def _prove(options: Options, folder: Path, into: Path, pictures: bool) -> int:
    found = await prove(options, folder, click.echo)
    (into / "report.md").write_text(report.markdown(found), "utf-8")
    (into / "report.json").write_bytes(report.as_json(found))
    (into / "access.jsonl").write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in found.log))
    _draw(found, PICTURES if pictures else into)
    click.echo(report.summary(found))
    click.echo(f"report: {into / 'report.md'}")
    return 1 if found.failed else 0


def _draw(found: Found, folder: Path) -> None:
    """The dashboards as pictures, from the answers to their queries."""
    span, answers = found.span, found.answers
    said = (
        f"simulated upstream · {len(found.seen)} exchanges in {span.end - span.start:.0f} s with"
        " every fault it can play · drawn from a Prometheus that scraped two proxies ·"
        " dotted lines: settings loaded (blue), a breaker opened (orange)"
    )
    time = Time(span.start, span.end, span.step)
    for board in found.boards:
        marks = answers.marks.get(board.file, [])
        drawn = picture(board, answers.series, marks, time, said)
        (folder / f"{board.file}.svg").write_text(drawn, "utf-8")


if __name__ == "__main__":
    command()
