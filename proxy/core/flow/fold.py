"""A whole answer from a stream: for a caller who asked for one where the upstream is streamed.

The caller has got nothing until the end. So first-token timers, hedging and failover are there
for it too, and what broke off is an error with a status and never half an answer.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from proxy.core.wire.dialect import object_of
from proxy.core.wire.fold_anthropic import AnthropicAnswer
from proxy.core.wire.fold_glm import GlmAnswer
from proxy.core.wire.sse import ANY_SIZE, Decoder
from proxy.errors import UpstreamProtocolError


class Fold:
    """One stream's answer. Whether the stream was whole its `Pipe` knows.

    error   the data of an error that the upstream told in the stream: a body of its dialect
    size    bytes taken so far
    """

    def __init__(self, dialect: str) -> None:
        """`dialect` is `openai` or `anthropic`."""
        self.error: bytes | None = None
        self.size = 0
        self._answer = AnthropicAnswer() if dialect == "anthropic" else GlmAnswer()
        self._decoder = Decoder(ANY_SIZE)
        self._is_readable = True

    def take(self, events: Iterable[bytes]) -> None:
        """Take whole events, as the pipe lets them out."""
        for raw in events:
            self.size += len(raw)
            for event in self._decoder.feed(raw):
                if event.data:
                    self._read(event.data)

    def answer(self) -> bytes:
        """The answer, as far as it came: JSON of the same dialect.

        Raises UpstreamProtocolError when an event could not be read, since a part would be missing.
        """
        if not self._is_readable:
            raise UpstreamProtocolError("an event of the upstream's stream is not JSON")
        try:
            return orjson.dumps(self._answer.whole())
        except orjson.JSONEncodeError as error:  # nested deeper than can be written again
            raise UpstreamProtocolError("the upstream's answer cannot be put together") from error

    def _read(self, data: bytes) -> None:
        try:
            value = object_of(orjson.loads(data))
        except orjson.JSONDecodeError:
            self._is_readable = self._is_readable and data.strip().startswith(b"[DONE]")
            return
        if value.get("error") or value.get("type") == "error":
            self.error = data
        else:
            self._answer.add(value)
