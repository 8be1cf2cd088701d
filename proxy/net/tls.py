"""TLS towards upstreams: the contexts, and what a failed handshake means in words.

Verification of the certificate and of its name is always on; nothing here can switch it off.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

H2: Final = "h2"
HTTP1: Final = "http/1.1"


class ClientContext(ssl.SSLContext):
    """Trusts the system's roots and what `extra` adds.

    Both are remembered because a context cannot be copied, nor asked for all it trusts:
    `get_ca_certs` leaves out folders read on demand and certificates that are no CA.
    """

    extra: str | None = None


def client_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or later; trusts the system's roots and, in addition, the PEM file `ca_file`.

    Raises ValueError, which names the file, when it cannot be read or holds no certificate.
    """
    if ca_file is None:
        return _context(None, ())
    try:
        return _context(ca_file.read_text(encoding="ascii"), ())
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ValueError(f"endpoints[].ca_file {ca_file}: no certificates: {error}") from None


def offering(context: ssl.SSLContext, *protocols: str) -> ssl.SSLContext:
    """A new context with the trust of `context` that offers `protocols` by ALPN (RFC 7301).

    ALPN belongs to a context, and one endpoint needs two lists of it: `context` itself is not
    touched, so it may be shared. Raises ValueError when `context` would not verify the peer.
    """
    if isinstance(context, ClientContext):
        return _context(context.extra, protocols)
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        raise ValueError("a TLS context for an upstream must verify certificate and name")
    fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    fresh.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    fresh.maximum_version = context.maximum_version
    fresh.verify_flags = context.verify_flags
    if certificates := context.get_ca_certs(binary_form=True):
        fresh.load_verify_locations(cadata=b"".join(certificates))
    fresh.set_alpn_protocols(protocols)
    return fresh


def handshake_failure(error: OSError, host: str) -> str:
    """Why the handshake with `host` failed and which setting to look at, in one sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = _CERTIFICATE_FAILURES.get(error.verify_code)
        if reason is None:
            return f"the certificate was refused: {error.verify_message} ({_LOOK_AT_CA})"
        return f"the certificate was refused: {reason.format(host=host)}"
    if isinstance(error, ssl.SSLError):
        name = error.reason or "unknown reason"
        if "NO_APPLICATION_PROTOCOL" in name:
            return "no protocol in common by ALPN; see pool.http2"
        return f"the TLS handshake failed: {name.replace('_', ' ').lower()}"
    return "the connection was closed during the TLS handshake"


def _context(extra: str | None, protocols: tuple[str, ...]) -> ClientContext:
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if extra is not None:
        context.load_verify_locations(cadata=extra)
        context.extra = extra
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


_LOOK_AT_CA: Final = "if it is genuine, name its CA in endpoints[].ca_file"
_UNKNOWN_CA: Final = f"it was issued by an unknown CA; {_LOOK_AT_CA}"
_WRONG_NAME: Final = (
    "it is valid, but for another name than {host}; look at endpoints[].base_url"
    " (endpoints[].ca_file cannot help)"
)
_TIME: Final = "; renew it, or set this machine's clock (endpoints[].ca_file cannot help)"

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_CERTIFICATE_FAILURES: Final = {
    2: _UNKNOWN_CA,
    9: f"it is not valid yet{_TIME}",
    10: f"it has expired{_TIME}",
    18: f"it is self-signed; {_LOOK_AT_CA}",
    19: _UNKNOWN_CA,
    20: _UNKNOWN_CA,
    21: _UNKNOWN_CA,
    62: _WRONG_NAME,
    64: _WRONG_NAME,
}
