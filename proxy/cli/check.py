"""`glm-proxy check`: are these settings right, and what do they come to?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from proxy.cli.settings import read_settings
from proxy.config import Config, effective


def schema() -> str:
    """The JSON schema of a settings file, for editors; `config/schema.json` is this."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(head | Config.model_json_schema(), indent=2, ensure_ascii=False)


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--schema", "only_schema", is_flag=True, help="Print the JSON schema and stop.")
def command(file: Path | None, only_schema: bool) -> None:
    """Check the settings in FILE and print what they come to, defaults included, secrets masked.

    Without FILE, the bundled proxy.yaml. Exit code 2 and every problem if they cannot be used.
    """
    if only_schema:
        click.echo(schema())
        return
    click.echo(effective(read_settings(file)), nl=False)
