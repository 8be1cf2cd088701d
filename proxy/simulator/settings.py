"""What a simulator can be told; every field has a default that suits a test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from proxy.simulator.profiles import PROFILES


def _known_profile(name: str) -> str:
    if name not in PROFILES:
        raise ValueError(f"no such profile, there are: {', '.join(PROFILES)}")
    return name


class SimulatorSettings(BaseModel):
    """Settings of one simulator; times in seconds, port 0 = any free one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: Annotated[str, AfterValidator(_known_profile)] = "instant"
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    """Plain HTTP/1.1, and HTTP/2 by prior knowledge."""
    tls_port: int | None = Field(default=0, ge=0, le=65535)
    """TLS with ALPN; None = no TLS listener, and no certificate."""
    http1_only: bool = False
    """No HTTP/2 on either port."""
    ca_file: Path | None = None
    """Where the CA's certificate is written (PEM); None = a temporary file."""
    names: tuple[str, ...] = ()
    """Further names and addresses of the certificate, beside localhost and `host`."""
    seed: int = 1
    reproducible: bool = False
    """Ids and times too come from the seed."""
    time_scale: float = Field(default=1.0, ge=0)
    """Multiplies every wait; 0 = none."""
    in_flight: int | None = Field(default=None, ge=0)
    """Requests one key may have running per model; None = as the profile says, 0 = no limit."""
    tokens: int | None = Field(default=None, ge=0)
    """Length of every answer, in place of the profile's."""
    gap: float | None = Field(default=None, ge=0)
    """Seconds between tokens, in place of the profile's."""
    max_concurrent_streams: int = Field(default=128, ge=1)
    """SETTINGS_MAX_CONCURRENT_STREAMS; streams above it are refused."""
    goaway_after: int | None = Field(default=None, ge=1)
    """GOAWAY after so many requests on an HTTP/2 connection; it ends when they are answered."""
    keepalive_timeout: float | None = Field(default=None, ge=0)
    """Idle connections close after so long; None = never."""
    body_limit: int = Field(default=128 << 20, ge=0)
    """Largest request body, in bytes."""
    ledger_size: int = Field(default=10_000, ge=1)
    """Requests and connections remembered."""
