"""What the real SDKs make of a limit of ours: their own error, and a wait as they are told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from proxy.simulator import Fault
from tests.fakes.raw_client import RawClient, chat
from tests.fakes.several import CHAT, Several, several
from tests.sdk.conftest import KEY

ASKED: Final[dict[str, Any]] = {
    "model": "glm-4.6",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 20,
}


def per_key(**limits: int) -> dict[str, Any]:
    return {"limits": {"per_key": limits}}


def an_openai(proxy: Several, retries: int) -> AsyncOpenAI:
    host, port = proxy.app.data_address
    http = openai.DefaultAsyncHttpxClient(verify=False)
    url = f"http://{host}:{port}/v1"
    return AsyncOpenAI(api_key=KEY, base_url=url, max_retries=retries, http_client=http)


def an_anthropic(proxy: Several, retries: int) -> AsyncAnthropic:
    host, port = proxy.app.data_address
    http = anthropic.DefaultAsyncHttpxClient(verify=False)
    url = f"http://{host}:{port}"
    return AsyncAnthropic(api_key=KEY, base_url=url, max_retries=retries, http_client=http)


async def ask(sdk: AsyncOpenAI | AsyncAnthropic) -> object:
    if isinstance(sdk, AsyncOpenAI):
        return await sdk.chat.completions.create(**ASKED)
    return await sdk.messages.create(**ASKED)


SDKS: Final = pytest.mark.parametrize(
    "make", [an_openai, an_anthropic], ids=["openai", "anthropic"]
)


@SDKS
async def test_a_limit_is_the_sdks_own_error(tmp_path: Path, make: Any) -> None:
    async with several(tmp_path, **per_key(requests_per_minute=1)) as proxy:
        async with make(proxy, 0) as sdk:
            await ask(sdk)
            with pytest.raises((openai.RateLimitError, anthropic.RateLimitError)) as refused:
                await ask(sdk)
        error: Any = refused.value
        assert "1 requests per minute of this caller" in error.message
        assert 30 <= int(error.response.headers["retry-after"]) <= 108
        assert len(proxy.entries) == 1


@SDKS
async def test_an_sdk_comes_back_when_it_is_told_to(tmp_path: Path, make: Any) -> None:
    async with several(tmp_path, **per_key(concurrent=1)) as proxy:
        proxy.inject(Fault(first_token=0.5))
        async with RawClient(proxy.app.data_address) as other, make(proxy, 1) as sdk:
            other.post(CHAT, chat(), f"Authorization: Bearer {KEY}")
            await proxy.endpoints["a"].ledger.until(lambda ledger: len(ledger) == 1)
            began = time.monotonic()
            await ask(sdk)
            assert time.monotonic() - began >= 1.0  # its own first pause is half a second
        assert await proxy.figure("glm_proxy_limited_total", limit="concurrent") == 1
