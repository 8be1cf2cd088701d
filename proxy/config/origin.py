"""Addresses in settings: which URLs may be called, which hosts may be listened on.

An address is written one way only. Other spellings of an IP address (`127.1`, `2130706433`,
`[::ffff:7f00:1]`) have been used to slip past checks, so they are refused, not normalised.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_EXAMPLE: Final = "https://open.bigmodel.cn"

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*\.?")
# The URL standard reads a host whose last label is a number as an IPv4 address.
_NUMBER_LAST: Final = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|[0-9]+)\.?")
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")
_PRIVATE: Final = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


def address(host: str) -> Address | None:
    """`host` as an IP address in its one usual spelling, or None."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return found if str(found) == host else None


def is_loopback(host: str) -> bool:
    """Whether `host` can only be this machine."""
    found = address(host)
    if found is not None:
        return found.is_loopback
    return host == "localhost" or host.endswith(".localhost")


def is_bindable(host: str) -> bool:
    """Whether `host` names an address to listen on without asking DNS."""
    return host == "localhost" or address(host) is not None


def is_name(host: str) -> bool:
    """Whether `host` is a host's name alone: no scheme, no port."""
    return _HOST_NAME.fullmatch(host.lower()) is not None


def checked(
    url: str,
    *,
    allow_plain_http: bool,
    readable: str = "keys and prompts",
    allowing: str = "allow_plain_http",
    secret: str = "api_key",
) -> str:
    """`url` without a slash at its end, if requests may be sent below it.

    `readable`: what anybody on the way could read without TLS. `allowing`, `secret`: what the
    settings beside it are called that allow that, and that hold the key.

    Raises ValueError with what is wrong; user names and passwords are never repeated in it.
    """
    parts = _split(url)
    if parts.scheme not in ("https", "http"):
        raise ValueError("must begin with https://")
    if "@" in parts.netloc:
        raise ValueError(f"holds a user name or password; remove it and use {secret}")
    if "?" in url or "#" in url:
        raise ValueError("must end with the host or a path: remove '?' and '#' and what follows")
    host = _host(parts)
    _port(parts)
    checked_path(parts.path.rstrip("/"))
    if parts.scheme == "http" and not (allow_plain_http or is_near(host)):
        raise ValueError(
            f"found http:// to {host}: {readable} would be readable on the way. Write"
            f" https://, or set {allowing}: true beside it"
        )
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def checked_path(path: str) -> str:
    """`path` if it is empty or absolute, plain and without `.` and `..`. Raises ValueError."""
    segments = path.split("/")
    if not _PATH.fullmatch(path) or "." in segments or ".." in segments:
        raise ValueError("a path must look like /api/v4: plain segments, no slash at its end")
    return path


def parts_of(url: str, *, example: str) -> SplitResult:
    """`url` in its parts, if its host and port are spelled as usual; `example` is one of its kind.

    Raises ValueError; user names and passwords are never repeated in it.
    """
    parts = _split(url, example)
    _host(parts, example)
    _port(parts)
    return parts


def is_near(host: str) -> bool:
    """Whether `host` can only be this machine, or an address of a private network."""
    found = address(host)
    return is_loopback(host) or (
        found is not None and any(found in network for network in _PRIVATE)
    )


def _split(url: str, example: str = _EXAMPLE) -> SplitResult:
    # urlsplit drops tabs and line ends in silence.
    if not re.fullmatch(r"[!-~]+", url):
        raise ValueError(f"must be a URL such as {example}, without blanks")
    try:
        return urlsplit(url)
    except ValueError:
        raise ValueError(f"must be a URL such as {example}") from None


def _host(parts: SplitResult, example: str = _EXAMPLE) -> str:
    host = (parts.hostname or "").lower()
    found = address(host)
    if found is not None:
        # An IPv4 address inside an IPv6 one is caught here: it has a second spelling.
        if getattr(found, "ipv4_mapped", None) or found.is_unspecified or found.is_multicast:
            raise ValueError(f"{host} is not an address to send requests to")
        return host
    if ":" in host or _NUMBER_LAST.fullmatch(host):
        raise ValueError("the IP address in it is not in its usual spelling, such as 127.0.0.1")
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(f"must have a host name, such as {example}")
    return host


def _port(parts: SplitResult) -> None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("the port must be a number from 1 to 65535")
