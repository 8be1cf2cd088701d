"""Our connection to an `h2_peer.Peer`, fresh, greeted or stuck."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hyperframe.frame import SettingsFrame, WindowUpdateFrame

from proxy.net.h2.connection import Connection, H2Settings, Reader
from tests.fakes.h2_peer import Peer, PeerConnection
from tests.fakes.h2_sinks import POST, Recorder
from tests.fakes.h2_tls import client_tls


async def connect(
    peer: Peer,
    settings: H2Settings | None = None,
    on_change: Callable[[Connection], None] = lambda _: None,
    clock: Callable[[], float] | None = None,
) -> Connection:
    """Our connection to a peer, closed with it."""
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(settings or H2Settings(), on_change, clock),
        "127.0.0.1",
        peer.port,
        ssl=client_tls() if peer.tls else None,
    )
    peer.clients.append(connection)
    return connection


async def greeted(
    peer: Peer,
    settings: H2Settings | None = None,
    on_change: Callable[[Connection], None] = lambda _: None,
    **values: int,
) -> tuple[Connection, PeerConnection]:
    """Our connection to a raw peer, with SETTINGS exchanged both ways."""
    index = len(peer.connections)
    connection = await connect(peer, settings, on_change)
    there = await peer.connection(index)
    there.send(there.settings(**values), SettingsFrame(0, flags=["ACK"]))
    await there.acked(SettingsFrame)
    return connection, there


async def congested(
    peer: Peer, settings: H2Settings | None = None
) -> tuple[Connection, PeerConnection, Recorder]:
    """A connection whose peer reads nothing any more, with an upload stuck in it."""
    connection, there = await greeted(peer, settings, initial_window_size=2**30)
    there.send(WindowUpdateFrame(0, 2**30))
    await there.synced()
    there.transport.pause_reading()
    stuck = Recorder()
    connection.request(POST, stuck, b"x" * 64 * 2**20)
    assert connection.congested
    return connection, there, stuck


async def fine(connection: Connection) -> None:
    """The connection still answers a POST with its body."""
    reader = Reader.open(connection, POST, b"still there")
    assert await reader.read() == b"still there"
