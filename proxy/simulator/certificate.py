"""A certificate authority of the simulator's own, and the TLS side of its second port."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


def server_context(ca_file: Path, names: tuple[str, ...], alpn: tuple[str, ...]) -> ssl.SSLContext:
    """A fresh CA whose certificate is written to `ca_file`, and a context with a leaf of it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(alpn))
    authority.issue_cert(*names).configure_cert(context)
    return context
