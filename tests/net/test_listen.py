"""Listening sockets, and the words when there is none to be had."""

from __future__ import annotations

import errno
import socket

import pytest

from proxy.net.listen import CannotListen, listening_socket


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_socket_listens_on_any_free_port(host: str) -> None:
    with listening_socket("server", host, 0) as listener:
        address = listener.getsockname()[:2]
        assert address[1] > 0
        with socket.create_connection(address, timeout=5):
            pass


def test_a_port_in_use_names_the_setting_and_the_option() -> None:
    with listening_socket("admin", "127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen) as caught:
            listening_socket("admin", "127.0.0.1", port)
    assert str(caught.value) == (
        f"admin.port {port} on 127.0.0.1 is in use; choose another with --admin-port or admin.port"
    )


def test_a_port_is_free_again_at_once() -> None:
    """A connection of the process before lingers in TIME_WAIT; a restart must not wait for it."""
    with listening_socket("server", "127.0.0.1", 0) as listener:
        listener.setblocking(True)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            listener.accept()[0].close()
    with listening_socket("server", "127.0.0.1", port) as again:
        assert again.getsockname()[1] == port


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (errno.EACCES, "server.port 80 needs permissions we do not have; choose another"),
        (errno.EADDRNOTAVAIL, "server.host 192.0.2.1 is not an address of this machine"),
        (errno.EMFILE, "cannot listen on server.host 192.0.2.1, port 80: EMFILE"),
    ],
)
def test_other_reasons_are_told_in_words(reason: int, says: str) -> None:
    assert str(CannotListen("server", "192.0.2.1", 80, reason)).startswith(says)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotListen, match="is not an address of this machine"):
        listening_socket("server", "192.0.2.1", 0)
