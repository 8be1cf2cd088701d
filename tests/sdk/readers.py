"""The SDKs as readers of one stream: the text they give their caller, and the error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import anthropic
import httpx
import openai
import zai
from zai.core import StreamResponse, ZaiError

from tests.sdk.conftest import KEY


class Heard(NamedTuple):
    """What a caller of an SDK is left with."""

    text: str
    finished: bool
    """A finish reason came."""
    error: str | None
    """All that the SDK's own exception says. Any other exception is not caught here."""


_ASKED: Any = [{"role": "user", "content": "hi"}]


class Reader(NamedTuple):
    """One way of one SDK to read a stream; `client` opens one at the proxy of this address."""

    dialect: str
    client: Callable[[str], AbstractContextManager[Any]]
    read: Callable[[Any, str, list[str]], bool]
    """Adds to the list what it reads; true when the answer says that it is finished."""
    error: type[Exception]

    def hear(self, sdk: Any, model: str) -> Heard:
        """The answer of `model`, to its end."""
        texts: list[str] = []
        try:
            finished = self.read(sdk, model, texts)
        except self.error as error:
            rest = getattr(error, "body", None), getattr(error, "json_data", None)
            return Heard("".join(texts), False, f"{type(error).__name__} {error} {rest}")
        return Heard("".join(texts), finished, None)


def _openai(sdk: openai.OpenAI, model: str, texts: list[str]) -> bool:
    finished = False
    for chunk in sdk.chat.completions.create(model=model, messages=_ASKED, stream=True):
        for choice in chunk.choices:
            texts.append(choice.delta.content or "")
            finished = finished or choice.finish_reason is not None
    return finished


def _zai(sdk: zai.ZhipuAiClient, model: str, texts: list[str]) -> bool:
    finished = False
    stream = sdk.chat.completions.create(model=model, messages=_ASKED, stream=True)
    assert isinstance(stream, StreamResponse)
    try:
        for chunk in stream:
            for choice in chunk.choices:
                texts.append(choice.delta.content or "")
                finished = finished or choice.finish_reason is not None
    finally:
        stream.response.close()
    return finished


def _anthropic_raw(sdk: anthropic.Anthropic, model: str, texts: list[str]) -> bool:
    finished = False
    for event in sdk.messages.create(model=model, messages=_ASKED, max_tokens=9, stream=True):
        if event.type == "content_block_delta" and event.delta.type == "text_delta":
            texts.append(event.delta.text)
        if event.type == "message_delta":
            finished = event.delta.stop_reason is not None
    return finished


def _anthropic_stream(sdk: anthropic.Anthropic, model: str, texts: list[str]) -> bool:
    with sdk.messages.stream(model=model, messages=_ASKED, max_tokens=9) as stream:
        texts.extend(stream.text_stream)
        return stream.get_final_message().stop_reason is not None


# No TLS is spoken to the proxy: `verify=False` spares the reading of all root certificates.
def _openai_client(base: str) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(verify=False)
    return openai.OpenAI(
        api_key=KEY, base_url=f"{base}/v1", max_retries=0, timeout=20, http_client=http
    )


def _zai_client(base: str) -> zai.ZhipuAiClient:
    http = httpx.Client(verify=False, timeout=20)
    base_url = f"{base}/api/paas/v4"
    return zai.ZhipuAiClient(api_key=KEY, base_url=base_url, max_retries=0, http_client=http)


def _anthropic_client(base: str) -> anthropic.Anthropic:
    http = anthropic.DefaultHttpxClient(verify=False)
    return anthropic.Anthropic(
        api_key=KEY, base_url=base, max_retries=0, timeout=20, http_client=http
    )


READERS = {
    "openai": Reader("openai", _openai_client, _openai, openai.APIError),
    "zai": Reader("openai", _zai_client, _zai, ZaiError),
    "anthropic-raw": Reader("anthropic", _anthropic_client, _anthropic_raw, anthropic.APIError),
    "anthropic-stream": Reader(
        "anthropic", _anthropic_client, _anthropic_stream, anthropic.APIError
    ),
}
