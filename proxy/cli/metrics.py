"""`glm-proxy metrics`: every metric that /metrics shows, with its labels and its meaning."""

from __future__ import annotations

import click

from proxy.observe.table import markdown


@click.command()
def command() -> None:
    """Print the table of all metrics as Markdown."""
    click.echo(markdown(), nl=False)
