"""Certificates of a test run's own authority, for 127.0.0.1."""

from __future__ import annotations

import ssl
from functools import cache

import trustme


@cache
def authority() -> trustme.CA:
    """The one certificate authority of a test run."""
    return trustme.CA()


@cache
def server_tls(*alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("127.0.0.1", "localhost").configure_cert(context)
    context.set_alpn_protocols(list(alpn))
    return context


@cache
def client_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context
