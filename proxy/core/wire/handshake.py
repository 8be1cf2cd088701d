"""Asking for a WebSocket: which page may, with which key, and whether it is asked for rightly.

A browser sends the Origin of the page, whatever the page says, and cannot send an Authorization:
so a page may offer its key as a subprotocol, and only one that is listed is listened to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final

from proxy.core.wire import headers as policy
from proxy.errors import ClientError, Forbidden, UpgradeRequired

Pairs = Iterable[tuple[str, str]]

VERSION: Final = ("sec-websocket-version", "13")
HERE: Final = (VERSION, ("upgrade", "websocket"))
"""What is spoken here, for who asked for another version (RFC 6455 §4.4, RFC 9110 §15.5.22)."""
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
"""Sixteen bytes in base64 (RFC 6455 §4.1)."""

PROTOCOLS: Final = ("glm-proxy", "realtime")
"""Those that are agreed on where they are offered: they mean nothing, but a browser that offers
some wants one."""
_OWN_KEY: Final = "glm-proxy-key."
_OPENAI_KEY: Final = "openai-insecure-api-key."
_DEFAULT_PORTS: Final = {"https": ":443", "http": ":80"}


def check_origin(headers: Pairs, origins: Sequence[str]) -> None:
    """Only pages of `origins` may ask; what is no browser sends no Origin (RFC 6455 §10.2). The
    Host is no help: behind a name that was rebound it is the page's own. Raises Forbidden."""
    shown = [value for name, value in headers if name.lower() == "origin"]
    if not shown:
        return
    listed = {_origin(one) for one in origins}
    if len(shown) > 1 or _origin(shown[0]) not in listed:
        raise Forbidden("pages of this origin may not open a WebSocket (websocket.origins)")


def _origin(text: str) -> str:
    """As browsers write it: in lower case, without the scheme's own port."""
    text = text.strip().lower()
    return text.removesuffix(_DEFAULT_PORTS.get(text.partition(":")[0], ""))


def caller_key(headers: Sequence[tuple[str, str]]) -> str | None:
    """The caller's key, from a header or a subprotocol; None without one.

    Raises ClientError when there are different ones, or one that cannot be read.
    """
    return policy.caller_key(with_key(headers))


def with_key(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of the upgrade as those of a request of its own: what is about the WebSocket is
    left out, and a key that was offered as a subprotocol is in Authorization. Raises ClientError.
    """
    plain = [
        (name, value)
        for name, value in headers
        if not name.lower().startswith("sec-websocket-") and name.lower() not in _OF_UPGRADE
    ]
    for protocol in offered(headers):
        if (key := _key_in(protocol)) is not None:
            plain.append(("authorization", f"Bearer {key}"))
    return plain


_OF_UPGRADE: Final = frozenset({"connection", "upgrade", "origin"})


def offered(headers: Pairs) -> list[str]:
    """The subprotocols that were offered, in order."""
    return [
        stripped
        for name, value in headers
        if name.lower() == "sec-websocket-protocol"
        for one in value.split(",")
        if (stripped := one.strip())
    ]


def agreed(protocols: Sequence[str]) -> str | None:
    """Which subprotocol is answered: never one with a key in it."""
    return next((one for one in protocols if one in PROTOCOLS), None)


def _key_in(protocol: str) -> str | None:
    if protocol.startswith(_OPENAI_KEY):
        return protocol.removeprefix(_OPENAI_KEY)
    if not protocol.startswith(_OWN_KEY):
        return None
    text = protocol.removeprefix(_OWN_KEY).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        key = ""
    if not key.isprintable() or not key:
        raise ClientError(f"the subprotocol {_OWN_KEY}… does not hold a key in base64url")
    return key


def accept(version: tuple[int, int], headers: Sequence[tuple[str, str]], *, has_body: bool) -> str:
    """The value of Sec-WebSocket-Accept (RFC 6455 §4.2).

    Raises ClientError, and UpgradeRequired where another version is asked for.
    """
    if version != (1, 1):
        raise ClientError("a WebSocket needs HTTP/1.1")
    if has_body:
        raise ClientError("a request for a WebSocket has no body")
    if "upgrade" not in _tokens(headers, "connection"):
        raise ClientError("a WebSocket needs the header Connection: Upgrade")
    if _tokens(headers, "upgrade") != ["websocket"]:
        raise ClientError("a WebSocket needs the header Upgrade: websocket, and nothing else in it")
    if _values(headers, VERSION[0]) != [VERSION[1]]:
        raise UpgradeRequired("WebSockets here are of version 13 (RFC 6455)")
    keys = _values(headers, "sec-websocket-key")
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise ClientError("a WebSocket needs one Sec-WebSocket-Key of 16 bytes in base64")
    return accepted(keys[0])


def accepted(key: str) -> str:
    """What a server answers to a Sec-WebSocket-Key (RFC 6455 §4.2.2)."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def _values(headers: Pairs, wanted: str) -> list[str]:
    return [value.strip() for name, value in headers if name.lower() == wanted]


def _tokens(headers: Pairs, wanted: str) -> list[str]:
    return [
        token.strip().lower() for value in _values(headers, wanted) for token in value.split(",")
    ]
