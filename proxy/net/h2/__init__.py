"""Our HTTP/2 client connection: the client's part of RFC 9113, fast for small DATA frames.

    frames.py      bytes of one frame: numbers, names, formatting
    fields.py      header blocks: compression, and the rules a response head must keep
    budget.py      how much a peer may send that moves nothing forward
    state.py       what is known of one stream; `Head`, `Sink` and `H2Settings`, shared with callers
    uploads.py     request bodies under the peer's windows
    streams.py     the open streams: how each begins, goes on and ends
    engine.py      the state machine: bytes in, calls on sinks and bytes out
    stream.py      one request as its owner holds it
    connection.py  the asyncio protocol: one socket, its timer, its end: start reading there
    reader.py      a sink to be awaited

Everything above `stream.py` knows no event loop and reads no clock of its own.
"""
