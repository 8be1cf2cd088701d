"""Settings for a command: read from its file and the environment, or the reasons why not."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from proxy.config import Config, ConfigError, Problem, load
from proxy.config.yaml_file import read
from proxy.core.policy import capability

WRONG_SETTINGS = 2
"""Exit code for settings that cannot be used; click's own for a wrong command line."""

config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="Settings file. Default: the bundled proxy.yaml.",
)


def read_settings(path: Path | None, overrides: Mapping[str, object] | None = None) -> Config:
    """The settings in `path`; with problems, they go to standard error and the process ends."""
    try:
        return load_settings(path, overrides)
    except ConfigError as error:
        click.echo(error, err=True)
        sys.exit(WRONG_SETTINGS)


def load_settings(path: Path | None, overrides: Mapping[str, object] | None = None) -> Config:
    """The settings in `path`; warnings go to standard error. Raises ConfigError."""
    config = load(path, os.environ, overrides)
    _check_models(config.models_file)
    for warning in config.warnings:
        click.echo(f"warning: {warning}", err=True)
    return config


def actor() -> str:
    """Who runs the command, for the audit: `cli:USER`, as the system knows them."""
    number = os.getuid()
    try:
        return f"cli:{pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"cli:{number}"


def _check_models(path: Path | None) -> None:
    """Raises ConfigError if an operator's own model records cannot be used."""
    if path is None:
        return
    try:
        capability.load(read(path).data)
    except ValueError as error:
        problems = [Problem("", line) for line in str(error).splitlines()]
        raise ConfigError(str(path), problems) from None
