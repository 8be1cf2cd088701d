"""Listening sockets, and why one cannot be had: in words that name the setting to change."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

BACKLOG: Final = 1024
"""Connections the kernel holds until they are accepted. Say it to `create_server` as well: its
default of 100 would replace this one."""
_UNSENT: Final = 128 * 1024
"""Bytes of an answer that the kernel takes beyond what the client's window allows. It would take
megabytes, of an answer that may never be read (tcp(7): TCP_NOTSENT_LOWAT)."""


class CannotListen(Exception):
    """An address cannot be listened on. `str()` is one line for the operator."""

    def __init__(self, section: str, host: str, port: int, reason: int) -> None:
        super().__init__(section, host, port, reason)
        self.section = section
        self.host = host
        self.port = port
        self.reason = reason

    def __str__(self) -> str:
        option = "--port" if self.section == "server" else f"--{self.section}-port"
        change = f"choose another with {option} or {self.section}.port"
        if self.reason == errno.EADDRINUSE:
            return f"{self.section}.port {self.port} on {self.host} is in use; {change}"
        if self.reason in (errno.EACCES, errno.EPERM):
            return f"{self.section}.port {self.port} needs permissions we do not have; {change}"
        if self.reason in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return f"{self.section}.host {self.host} is not an address of this machine"
        name = errno.errorcode.get(self.reason, str(self.reason))
        return f"cannot listen on {self.section}.host {self.host}, port {self.port}: {name}"


def url_of(address: tuple[str, int]) -> str:
    """Where one asks what listens on an IP address and port."""
    host, port = address
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(frozen=True)
class Listeners:
    """The two sockets a proxy accepts connections on; several processes may do so on the same."""

    data: socket.socket
    admin: socket.socket

    @classmethod
    def open(
        cls,
        server: tuple[str, int],
        admin: tuple[str, int],
        inherited: Mapping[str, socket.socket] | None = None,
    ) -> Self:
        """Hosts and ports as `listening_socket` takes them.

        Those `inherited` under the names `data` and `admin` are not opened. Raises CannotListen.
        """
        given = inherited or {}
        data = given.get("data") or listening_socket("server", *server)
        try:
            return cls(data, given.get("admin") or listening_socket("admin", *admin))
        except CannotListen:
            data.close()
            raise

    @property
    def hosts(self) -> tuple[str, str]:
        """The IP addresses they are bound to."""
        return self.data.getsockname()[0], self.admin.getsockname()[0]

    def close(self) -> None:
        """Accept nothing more here; another process with the same sockets goes on."""
        self.data.close()
        self.admin.close()


def hold_little(listener: socket.socket) -> None:
    """Let the connections that are accepted on it take little for clients that read slowly."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # accepted sockets inherit it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)


def listening_socket(section: str, host: str, port: int) -> socket.socket:
    """A socket that listens on `host` (an IP address or `localhost`) and `port` (0: any free one).

    `section` is `server` or `admin`: whose settings an error names. The caller closes it.
    Raises CannotListen.
    """
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise CannotListen(section, host, port, error.errno or 0) from None
    try:
        # A restart must not wait for connections of the one before (TIME_WAIT, RFC 9293 §3.6).
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `::` means IPv6 here; what also took IPv4 would be two listeners under one name.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        with suppress(OSError):
            listener.close()
        raise CannotListen(section, host, port, error.errno or 0) from None
    return listener
