"""Every setting: its name, unit, default and check; `load` reads them, nothing changes them after.

models      the settings themselves: look here first
load        file, environment and command line -> `Config`, or a `ConfigError` with all problems
yaml_file   YAML with the line of every key
problems    what is wrong, in words
units, secret, origin, types   how single values are read and checked
"""

from __future__ import annotations

from proxy.config.load import bundled, load
from proxy.config.models import (
    Admin,
    Candidate,
    Config,
    Endpoint,
    Listener,
    Log,
    Match,
    Params,
    PoolSettings,
    RouteRule,
    Server,
    StreamSettings,
    Timeouts,
)
from proxy.config.problems import ConfigError, Problem
from proxy.config.secret import Secret

__all__ = [
    "Admin",
    "Candidate",
    "Config",
    "ConfigError",
    "Endpoint",
    "Listener",
    "Log",
    "Match",
    "Params",
    "PoolSettings",
    "Problem",
    "RouteRule",
    "Secret",
    "Server",
    "StreamSettings",
    "Timeouts",
    "bundled",
    "load",
]
