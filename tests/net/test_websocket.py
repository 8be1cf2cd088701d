"""WebSockets on real sockets: the framing table, two other libraries, and what clients must not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Request,
    TextMessage,
)
from wsproto.events import (
    Message as WsMessage,
)

from proxy.core.wire import websocket as wire
from proxy.core.wire.websocket import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Close,
    Event,
    Message,
    Ping,
    Pong,
)
from proxy.errors import ClientError, LimitReached, RequestTooLarge
from proxy.net import websocket
from proxy.net.door import HardLimits
from proxy.net.websocket import Socket
from tests.fakes.socket_server import (
    ASKING,
    SocketServer,
    echo,
    listen,
    raw_socket,
    socket_server,
)
from tests.fakes.until import until
from tests.fakes.websocket_cases import CONVERSATIONS, FAULTS, LIMIT, frame

SIZES = (0, 1, 125, 126, 127, 65535, 65536, 300_000)


def answers(said: list[Event]) -> list[Event]:
    """What an echo says to it: of control frames between them only the latest need be answered."""
    return [one for one in said if isinstance(one, Message)]


def closed(said: list[Event]) -> list[int | None]:
    return [one.code for one in said if isinstance(one, Close)]


# --- the framing table ---------------------------------------------------------------------------


async def test_what_is_said_rightly_comes_back() -> None:
    async with socket_server() as server:
        for data, events in CONVERSATIONS.values():
            async with raw_socket(server.address) as client:
                client.writer.write(data)
                heard: list[Event] = []
                while len(answers(heard)) < len(answers(events)):
                    event = await client.hear()
                    assert event is not None
                    heard.append(event)
                assert answers(heard) == answers(events)
                client.say(CLOSE, wire.close_payload(4000))
                assert await client.ended_with() in (4000, *closed(events))
        await until(lambda: server.running == 0)


async def test_pings_between_fragments_are_answered_before_the_message() -> None:
    async with socket_server() as server, raw_socket(server.address) as client:
        client.writer.write(frame(TEXT, b"a", fin=False) + frame(PING, b"p"))
        assert await client.hear() == Pong(b"p")
        client.writer.write(frame(wire.CONTINUATION, b"b"))
        assert await client.hear() == Message(True, b"ab")


async def test_what_breaks_the_protocol_ends_it_with_the_code() -> None:
    async with socket_server(max_message=LIMIT) as server:
        for name, (data, code) in FAULTS.items():
            async with raw_socket(server.address) as client:
                client.writer.write(frame(TEXT, b"before") + data)
                heard = await client.hear_all()
                assert heard[-1].code == code, name  # type: ignore[union-attr]
        await until(lambda: server.running == 0 and server.door.inside == 0)
        assert {type(one.error) for one in server.sockets} == {ClientError, RequestTooLarge}
        assert server.cancelled == 0


async def test_a_message_that_comes_byte_by_byte_is_a_message() -> None:
    async with socket_server() as server, raw_socket(server.address) as client:
        data = (
            frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(wire.CONTINUATION, b"b" * 50)
        )
        for at in range(len(data)):
            client.writer.write(data[at : at + 1])
            await asyncio.sleep(0)
        assert await client.hear() == Pong(b"p")
        assert await client.hear() == Message(True, b"a" + b"b" * 50)


async def test_a_message_in_frames_of_a_byte_is_a_message_until_there_are_too_many() -> None:
    async with socket_server() as server:
        async with raw_socket(server.address) as client:
            middle = frame(wire.CONTINUATION, b"b", fin=False) * 4000
            client.writer.write(frame(TEXT, b"b", fin=False) + middle + frame(wire.CONTINUATION))
            assert await client.hear() == Message(True, b"b" * 4001)
        async with raw_socket(server.address) as client:
            client.writer.write(frame(TEXT, b"b", fin=False) + middle + middle)
            assert await client.ended_with() == 1008


async def test_a_deflate_bomb_cannot_be_sent() -> None:
    """Nothing is agreed on, whatever is offered; what is compressed all the same is refused."""
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    async with (
        socket_server() as server,
        raw_socket(server.address, opened=False) as client,
        connect(server.url, compression="deflate") as theirs,
    ):
        client.ask(*ASKING, offer)
        status, headers = await client.head()
        assert status == 101
        assert "sec-websocket-extensions" not in headers
        bomb = bytearray(frame(BINARY, b"\xec\xc1\x01\x01"))
        bomb[0] |= 0x40
        client.writer.write(bytes(bomb))
        assert await client.ended_with() == 1002
        assert theirs.protocol.extensions == []
        await theirs.send("a" * 100_000)
        assert await theirs.recv() == "a" * 100_000


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1011, 1014, 3000, 4999])
async def test_a_close_is_answered_with_its_own_code(code: int) -> None:
    async with socket_server() as server, raw_socket(server.address) as client:
        client.say(CLOSE, wire.close_payload(code, "why"))
        assert await client.ended_with() == code
        (socket,) = server.sockets
        await until(lambda: server.running == 0)
        assert (socket.code, socket.reason, socket.error) == (code, "why", None)


async def test_a_close_without_a_code_is_answered_without_one() -> None:
    async with socket_server() as server, raw_socket(server.address) as client:
        client.say(CLOSE)
        assert await client.hear() == Close(None, "")
        assert await client.hear() is None
        assert server.sockets[0].code == 1005


async def test_what_was_said_before_a_close_is_received() -> None:
    heard: list[bytes] = []

    async def slow(socket: Socket) -> None:
        await asyncio.sleep(0.1)
        while (message := await socket.receive()) is not None:
            heard.append(message.data)

    async with socket_server(slow) as server, raw_socket(server.address) as client:
        for number in range(30):
            client.say(TEXT, b"%d" % number)
        client.say(CLOSE, wire.close_payload(1000))
        assert await client.ended_with() == 1000
        assert heard == [b"%d" % number for number in range(30)]


# --- other clients -------------------------------------------------------------------------------


async def test_every_size_comes_back_to_websockets() -> None:
    async with socket_server() as server, connect(server.url, max_size=None) as client:
        for size in SIZES:
            binary = random.Random(size).randbytes(size)
            await client.send(binary)
            assert await client.recv() == binary
            await client.send("\u00fc" * (size // 2))
            assert await client.recv() == "\u00fc" * (size // 2)
        await client.send([b"in", b"", b"fragments"])
        assert await client.recv() == b"infragments"
        latency = await asyncio.wait_for(await client.ping(), 5)
        assert latency >= 0
        await client.close(4123, "enough")
        assert client.close_code == 4123
    assert server.sockets[0].reason == "enough"


async def test_the_codes_of_websockets_own_faults_are_ours() -> None:
    async with socket_server(max_message=1000) as server, connect(server.url) as client:
        await client.send("x" * 1001)
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 1009
        assert client.close_reason == "a message is over 1000 bytes"


class Wsproto:
    """The library's codec on a socket of our own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.codec = WSConnection(ConnectionType.CLIENT)

    def send(self, event: object) -> None:
        self.writer.write(self.codec.send(event))  # type: ignore[arg-type]

    async def events(self) -> AsyncIterator[object]:
        while data := await self.reader.read(1 << 16):
            self.codec.receive_data(data)
            for event in self.codec.events():
                yield event


async def test_every_size_comes_back_to_wsproto() -> None:
    async with socket_server() as server:
        client = Wsproto(*await asyncio.open_connection(*server.address))
        client.send(Request(host="proxy", target="/"))
        events = client.events()
        assert isinstance(await anext(events), AcceptConnection)
        for size in SIZES:
            for whole in (random.Random(size).randbytes(size), "x" * size):
                kind = BytesMessage if isinstance(whole, bytes) else TextMessage
                half = size // 2
                client.send(kind(data=whole[:half], message_finished=False))  # type: ignore[arg-type]
                client.send(kind(data=whole[half:], message_finished=True))  # type: ignore[arg-type]
                parts = []
                async for event in events:
                    assert isinstance(event, WsMessage)
                    parts.append(event.data)
                    if event.message_finished:
                        break
                assert whole[:0].join(parts) == whole
        client.send(CloseConnection(code=3001, reason="bye"))
        closing = await anext(events)
        assert isinstance(closing, CloseConnection)
        assert closing.code == 3001
        client.writer.close()


# --- the handshake -------------------------------------------------------------------------------

HOST, CONNECTION, UPGRADE, VERSION, KEY_LINE = ASKING
REFUSED: dict[str, tuple[tuple[str, ...], int]] = {
    "another version": ((HOST, CONNECTION, UPGRADE, "Sec-WebSocket-Version: 8", KEY_LINE), 426),
    "no version": ((HOST, CONNECTION, UPGRADE, KEY_LINE), 426),
    "no key": ((HOST, CONNECTION, UPGRADE, VERSION), 400),
    "a short key": ((HOST, CONNECTION, UPGRADE, VERSION, "Sec-WebSocket-Key: YWJj"), 400),
    "a long key": (
        (HOST, CONNECTION, UPGRADE, VERSION, "Sec-WebSocket-Key: " + "A" * 22 + "===="),
        400,
    ),
    "two keys": ((*ASKING, KEY_LINE), 400),
    "no Connection": ((HOST, UPGRADE, VERSION, KEY_LINE), 400),
    "Connection: close": ((HOST, "Connection: close", UPGRADE, VERSION, KEY_LINE), 400),
    "two protocols": ((HOST, CONNECTION, "Upgrade: websocket, h2c", VERSION, KEY_LINE), 400),
    "a body": ((*ASKING, "Content-Length: 0", "Transfer-Encoding: chunked"), 400),
    "a body of some bytes": ((*ASKING, "Content-Length: 3"), 400),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_wrong_handshake_is_an_http_answer(name: str) -> None:
    lines, status = REFUSED[name]
    async with socket_server() as server, raw_socket(server.address, opened=False) as client:
        client.ask(*lines, behind=b"abc" if "3" in lines[-1] else b"")
        assert (await client.head())[0] == status
        assert server.sockets == []


async def test_http_1_0_has_no_upgrade() -> None:
    async with socket_server() as server, raw_socket(server.address, opened=False) as client:
        client.writer.write("\r\n".join(["GET / HTTP/1.0", *ASKING, "", ""]).encode())
        assert (await client.head())[0] == 400
        assert server.sockets == []


async def test_tokens_may_stand_beside_others() -> None:
    async with socket_server() as server, raw_socket(server.address, opened=False) as client:
        client.ask(HOST, "connection: keep-alive, UPGRADE", "upgrade: WebSocket", VERSION, KEY_LINE)
        status, headers = await client.head()
        assert status == 101
        assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("size", [1, 200_000])
async def test_what_is_sent_behind_the_handshake_is_read(size: int) -> None:
    async with socket_server() as server, raw_socket(server.address, opened=False) as client:
        client.ask(behind=frame(BINARY, b"x" * size))
        assert (await client.head())[0] == 101
        assert await client.hear() == Message(False, b"x" * size)


async def test_a_half_handshake_is_not_waited_for() -> None:
    async with (
        socket_server(head_timeout=0.1) as server,
        raw_socket(server.address, opened=False) as client,
    ):
        client.writer.write(b"GET / HTTP/1.1\r\nHost: proxy\r\nUpgrade: webso")
        assert await client.reader.read() == b""
        await until(lambda: server.door.inside == 0)


async def test_a_frame_in_the_middle_of_which_the_client_leaves_leaves_nothing() -> None:
    store = HardLimits()
    async with socket_server(limits=store) as server:
        async with raw_socket(server.address) as client:
            client.writer.write(frame(BINARY, b"x" * 200_000)[:-1])
            held = server.factory._store
            await until(lambda: held.held > 130_000)
        await until(lambda: server.running == 0)
        assert (server.cancelled, held.held, server.door.inside) == (1, 0, 0)


# --- pings and silence ---------------------------------------------------------------------------


async def test_of_many_pings_at_once_the_latest_is_answered() -> None:
    async with socket_server() as server, raw_socket(server.address) as client:
        client.writer.write(b"".join(frame(PING, b"%d" % number) for number in range(200)))
        client.say(TEXT, b"end")
        heard: list[Event] = []
        while (event := await client.hear()) != Message(True, b"end"):
            assert event is not None
            heard.append(event)
        assert len(heard) < 50
        client.say(PING, b"again")
        rest = [await client.hear()]
        while rest[-1] != Pong(b"again"):
            rest.append(await client.hear())
        assert Pong(b"199") in [*heard, *rest]


async def test_a_flood_of_pings_is_ended() -> None:
    async with socket_server() as server, raw_socket(server.address) as client:
        client.writer.write(frame(PING, b"x" * 125) * 2000)
        assert await client.ended_with() == 1008
        assert isinstance(server.sockets[0].error, LimitReached)
        assert server.sockets[0].bytes_out < 100_000


async def test_a_flood_of_pongs_is_ended() -> None:
    async with socket_server() as server, raw_socket(server.address) as client:
        client.writer.write(frame(PONG) * 2000)
        assert await client.ended_with() == 1008


async def test_a_silent_client_is_pinged_and_lives_if_it_answers() -> None:
    async with socket_server(ping_interval=0.05) as server, raw_socket(server.address) as client:
        for _ in range(4):
            assert await client.hear() == Ping(b"")
            client.say(PONG)
        assert server.running == 1


async def test_a_client_that_answers_no_ping_is_gone() -> None:
    async with socket_server(ping_interval=0.05) as server, raw_socket(server.address) as client:
        assert await client.hear_all() == [Ping(b"")]
        await until(lambda: server.running == 0)
        assert server.sockets[0].code == 1006


async def test_an_idle_socket_is_closed_with_a_reason() -> None:
    async with socket_server(idle_timeout=0.1) as server, raw_socket(server.address) as client:
        client.say(TEXT, b"hi")
        assert await client.hear() == Message(True, b"hi")
        assert await client.hear() == Close(1000, "nothing was said for 0.1 s")
        client.say(CLOSE, wire.close_payload(1000))
        assert await client.hear() is None
        assert server.sockets[0].error is None


async def test_a_busy_socket_is_not_idle() -> None:
    async def work(socket: Socket) -> None:
        socket.busy = True
        await asyncio.sleep(0.3)
        socket.send(b"done")
        socket.busy = False
        await listen(socket)

    async with socket_server(work, idle_timeout=0.1) as server, raw_socket(server.address) as raw:
        assert await raw.hear() == Message(True, b"done")
        assert isinstance(await raw.hear(), Close)


async def test_more_messages_than_allowed_end_it() -> None:
    async with (
        socket_server(messages_per_minute=10) as server,
        raw_socket(server.address) as client,
    ):
        client.writer.write(frame(TEXT, b"a") * 30)
        heard = await client.hear_all()
        assert heard[-1] == Close(1008, "too many messages (websocket.messages_per_minute)")
        assert server.sockets[0].messages_in == 10


# --- back-pressure -------------------------------------------------------------------------------


async def test_a_client_is_read_no_faster_than_it_is_listened_to() -> None:
    gate = asyncio.Event()

    async def wait(socket: Socket) -> None:
        await gate.wait()
        await echo(socket)

    async with socket_server(wait) as server, raw_socket(server.address) as client:
        message = frame(BINARY, b"x" * 100_000)
        client.writer.write(message * 300)
        (socket,) = server.sockets
        await until(lambda: socket.messages_in == 8)
        before = socket.bytes_in
        client.say(PING, b"unseen")
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert socket.messages_in == 8
        assert socket.bytes_in == before < 2_000_000
        gate.set()
        heard = 0
        while heard < 300:
            event = await client.hear()
            assert event in (Pong(b"unseen"), Message(False, b"x" * 100_000))
            heard += isinstance(event, Message)


async def test_many_small_messages_at_once_are_not_held_as_messages() -> None:
    gate = asyncio.Event()

    async def wait(socket: Socket) -> None:
        await gate.wait()
        await echo(socket)

    async with (
        socket_server(wait, messages_per_minute=1_000_000) as server,
        raw_socket(server.address) as client,
    ):
        client.writer.write(frame(TEXT, b"a") * 20_000)
        (socket,) = server.sockets
        await until(lambda: socket.messages_in == 8)
        gate.set()
        for _ in range(20_000):
            assert await client.hear() == Message(True, b"a")


async def test_a_client_that_reads_nothing_is_told_of_and_dropped() -> None:
    flow: list[bool] = []

    async def flood(socket: Socket) -> None:
        socket.on_flow = flow.append
        while True:
            socket.send(b"x" * 10_000)
            await socket.drain()
            await asyncio.sleep(0)

    async with (
        socket_server(flood, client_stall=0.2) as server,
        raw_socket(server.address, receive=4096) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: True in flow)
        await until(lambda: server.running == 0)
        assert (server.cancelled, server.door.inside) == (1, 0)


async def test_a_client_that_reads_slower_than_it_is_told_is_not_dropped() -> None:
    """More and more waits for it, and yet it reads."""

    async def tell(socket: Socket) -> None:
        while not socket.paused:
            socket.send(b"x" * 10_000)
            await asyncio.sleep(0)
        for _ in range(30):
            socket.send(b"x" * 150_000)
            await asyncio.sleep(0.05)

    async with (
        socket_server(tell, client_stall=0.4) as server,
        raw_socket(server.address, receive=65536) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: server.sockets[0].paused)
        own = client.writer.get_extra_info("socket")
        while server.sockets[0].code is None:
            with contextlib.suppress(BlockingIOError):
                os.read(own.fileno(), 60_000)
            await asyncio.sleep(0.05)
        assert (server.sockets[0].code, server.cancelled) == (1000, 0)


async def test_pings_of_a_client_that_does_not_read_are_answered_once_it_does() -> None:
    async def flood(socket: Socket) -> None:
        while not socket.paused:
            socket.send(b"x" * 10_000)
            await asyncio.sleep(0)
        await listen(socket)

    async with (
        socket_server(flood) as server,
        raw_socket(server.address, receive=4096) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (socket,) = server.sockets
        await until(lambda: socket.paused)
        before = socket.bytes_in
        for number in range(100):
            client.say(PING, b"%d" % number)
        await until(lambda: socket.bytes_in > before + 700)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        heard: list[Event | None] = []
        while not heard or not isinstance(heard[-1], Pong):
            heard.append(await client.hear())
        assert heard[-1] == Pong(b"99")


async def test_bytes_of_messages_count_with_those_of_bodies() -> None:
    async with (
        socket_server(limits=HardLimits(bodies=200_000)) as server,
        raw_socket(server.address) as one,
        raw_socket(server.address) as other,
    ):
        one.writer.write(frame(BINARY, b"x" * 200_000)[:-1])
        await until(lambda: server.factory._store.held > 130_000)
        other.writer.write(frame(BINARY, b"x" * 200_000)[:-1])
        assert await other.ended_with() == 1013
        one.writer.write(frame(BINARY, b"x" * 200_000)[-1:])
        assert await one.hear() == Message(False, b"x" * 200_000)
        assert server.factory._store.held == 0


# --- the end -------------------------------------------------------------------------------------


async def test_a_server_that_stops_tells_each_socket() -> None:
    async def wait(socket: Socket) -> None:
        socket.on_drain = lambda: socket.end(1001, "the proxy is stopping; connect again")
        await listen(socket)

    async with socket_server(wait) as server:
        async with raw_socket(server.address) as one, connect(server.url) as other:
            server.factory.pre_shutdown()
            assert server.sockets[0].closing
            with pytest.raises(ConnectionClosed):
                await other.recv()
            assert (other.close_code, other.close_reason) == (
                1001,
                "the proxy is stopping; connect again",
            )
            assert await one.hear() == Close(1001, "the proxy is stopping; connect again")
            one.say(CLOSE, wire.close_payload(1001))
            assert await one.hear() is None
        await server.factory.emptied()
        async with raw_socket(server.address, opened=False) as late:
            late.ask()
            assert (await late.head())[0] == 503


async def test_a_busy_socket_is_waited_for_and_not_cut() -> None:
    over = asyncio.Event()

    async def work(socket: Socket) -> None:
        await over.wait()
        socket.send(b"the last word")

    async with socket_server(work) as server, raw_socket(server.address) as client:
        server.factory.pre_shutdown()
        emptied = asyncio.ensure_future(server.factory.emptied())
        await asyncio.sleep(0.1)
        assert not emptied.done()
        over.set()
        assert await client.hear() == Message(True, b"the last word")
        assert await client.hear() == Close(1000, "")
        client.say(CLOSE, wire.close_payload(1000))
        await emptied


async def test_a_client_that_does_not_answer_a_close_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "_GOODBYE", 0.1)

    async def leave(socket: Socket) -> None:
        await socket.close(4000, "over")

    async with socket_server(leave) as server, raw_socket(server.address) as client:
        assert await client.hear() == Close(4000, "over")
        assert await client.hear() is None
        await until(lambda: server.door.inside == 0)
        assert server.sockets[0].code == 4000


async def test_nothing_is_sent_or_received_behind_a_close() -> None:
    async def leave(socket: Socket) -> None:
        socket.end(4000, "over")
        socket.send(b"too late")
        assert await socket.receive() is None
        await socket.close()

    async with socket_server(leave) as server, raw_socket(server.address) as client:
        client.say(TEXT, b"crossing")
        assert await client.hear() == Close(4000, "over")
        client.say(TEXT, b"crossing")
        client.say(CLOSE, wire.close_payload(4000))
        assert await client.hear() is None
        assert server.sockets[0].messages_in == 0


async def test_what_was_counted_stays_counted() -> None:
    async with socket_server() as server:
        counted = server.factory.sockets
        async with raw_socket(server.address) as client:
            client.say(TEXT, b"a")
            await client.hear()
            assert (len(counted.open), counted.messages()) == (1, (1, 1))
            client.say(CLOSE, wire.close_payload(4000))
            assert await client.ended_with() == 4000
        async with raw_socket(server.address):
            pass
        await until(lambda: not counted.open)
        assert counted.messages() == (1, 1)
        assert counted.closed == {4000: 1, 1006: 1}


async def leaving(server: SocketServer, number: int) -> None:
    """One of many ways."""
    async with raw_socket(server.address) as client:
        match number % 6:
            case 0:
                client.say(CLOSE)
                await client.hear_all()
            case 1:
                client.say(TEXT, b"a")
            case 2:
                client.writer.write(frame(TEXT, b"a" * 1000)[:-5])
            case 3:
                client.writer.write(b"\xff" * 10)
                await client.hear_all()
            case 4:
                client.say(TEXT, b"a")
                await client.hear()
                client.writer.write_eof()
                await client.hear_all()
            case 5:
                client.say(CLOSE, wire.close_payload(1000))


async def test_nothing_is_left_of_sockets_however_they_end() -> None:
    async with socket_server() as server:
        await asyncio.gather(*(leaving(server, number) for number in range(12)))
        await until(lambda: server.door.inside == 0 and server.running == 0)
        files, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
        for _ in range(5):
            await asyncio.gather(*(leaving(server, number) for number in range(36)))
        await until(lambda: server.door.inside == 0 and server.running == 0)
        await until(lambda: len(os.listdir("/proc/self/fd")) <= files)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert server.factory._store.held == 0
        assert not server.factory.sockets.open


async def test_what_an_open_idle_socket_costs(capsys: pytest.CaptureFixture[str]) -> None:
    """Printed; the guard is one of magnitude. The raw client's half is measured beside it."""
    number = 200

    def used() -> float:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 1024

    async with socket_server() as server:
        request = "\r\n".join(["GET / HTTP/1.1", *ASKING, "", ""]).encode()

        async def opened() -> asyncio.Transport:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(asyncio.Protocol, *server.address)
            transport.write(request)
            return transport

        warm = [await opened() for _ in range(50)]
        await until(lambda: len(server.sockets) == 50)
        before = used()
        clients = [await opened() for _ in range(number)]
        await until(lambda: len(server.sockets) == 50 + number)
        each = (used() - before) / number
        with capsys.disabled():
            print(f"\nan open idle WebSocket: {each:.1f} KiB, with a bare client's half")
        assert each < 200
        for transport in (*warm, *clients):
            transport.abort()
        await until(lambda: server.running == 0)
