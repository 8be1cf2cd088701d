"""Settings of where keys, model switches and what is counted are kept."""

from __future__ import annotations

from proxy.config.secret import Secret
from proxy.config.types import CaFile, Name, Section
from proxy.config.units import Seconds


class State(Section):
    """Where keys, model switches and counts are kept: on this machine, or shared by several."""

    url: str
    """`sqlite:PATH`, `redis://[user@]host[:port][/database]`, `rediss://…`, or `memory`."""
    password: Secret | None = None
    """Of Redis or Valkey: `env:NAME` or `file:/path`."""
    prefix: Name = "glm-proxy"
    """What all names in Redis begin with."""
    timeout: Seconds = 0.05
    """Longest wait for one answer of Redis; then this process goes on with its own share."""
    ca_file: CaFile | None = None
    """PEM file of certificate authorities to trust besides the system's, for `rediss://`."""
