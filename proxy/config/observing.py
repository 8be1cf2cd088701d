"""Settings of what is told about exchanges: the log, the metrics, the traces."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from proxy.config import origin
from proxy.config.secret import Secret, Sources
from proxy.config.types import OFF, Flag, Name, OrOff, Section
from proxy.config.units import Share

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""A token (RFC 9110, section 5.6.2)."""


def _folder(path: Path, info: ValidationInfo) -> Path:
    """A path in a settings file begins at that file's folder, which it is not itself."""
    if path == Path():
        raise ValueError("must name a folder of its own, such as /run/glm-proxy")
    return info.context.path(str(path)) if isinstance(info.context, Sources) else path


class Log(Section):
    """The access log on standard output, the proxy's own messages on standard error."""

    format: Annotated[Literal["json", "text", "off"], OFF] = "json"
    """The access log, one line per exchange: json, text or off."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe message of the proxy's own to write."""
    sample: Share = 1.0
    """Of the exchanges that went well; failed, slow, repeated and hedged ones are always logged."""


class Metrics(Section):
    """Prometheus metrics on the admin listener."""

    enabled: Flag = True
    """false counts nothing, and /metrics answers 404."""
    folder: Annotated[Path, AfterValidator(_folder)] | None = None
    """Processes on one machine that name the same folder are scraped as one: /metrics of any of
    them is the sum of all. Made if it is missing; only for this user."""


class Tracing(Section):
    """OpenTelemetry traces, by OTLP over HTTP. Needs the extra `otel`."""

    allow_plain_http: Flag = False
    """Allow http:// to a host that is neither loopback nor private."""
    endpoint: str
    """The collector's base URL, such as http://127.0.0.1:4318; /v1/traces is added."""
    sample: Share = 1.0
    """Of the exchanges whose caller did not decide (W3C traceparent)."""
    service: Name = "glm-proxy"
    """`service.name` of the spans."""
    headers: dict[str, Secret] = Field(default_factory=dict)
    """Headers for the collector, such as authorization: env:OTLP_TOKEN."""

    @field_validator("endpoint")
    @classmethod
    def _check_url(cls, url: str, info: ValidationInfo) -> str:
        if "://" not in url:
            raise ValueError("must begin with http:// or https://, such as http://127.0.0.1:4318")
        plain = info.data.get("allow_plain_http", True)
        url = origin.checked(url, allow_plain_http=plain, readable="what spans tell")
        if url.endswith("/v1/traces"):
            raise ValueError("must be the base URL: /v1/traces is added to it")
        return url

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, Secret]) -> dict[str, Secret]:
        for name in headers:
            if not _HEADER.fullmatch(name):
                raise ValueError(f"{name!r} is no header's name")
        return headers


TracingOrOff = Annotated[
    Tracing | Literal["off"], OrOff("{endpoint: http://127.0.0.1:4318, sample: 10%}")
]
