"""Secrets that are looked for wherever they must not be, and requests that are full of them."""

from __future__ import annotations

import random
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import quote

import orjson

PIECE: Final = 8
"""Bytes of a secret that are too many to be told; in hex, twice as many digits."""
_HEX: Final = re.compile(rb"[0-9a-f]+|[0-9A-F]+")
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKMNPQRSTUVWXYZ23456789"


def canary(roll: random.Random, length: int = 32) -> str:
    """What no other text holds by chance."""
    return "".join(roll.choices(_ALPHABET, k=length))


def spellings(secret: str) -> set[bytes]:
    """The secret as it is, as a URL, JSON, base64 and hex write it, and turned around."""
    raw = secret.encode()
    found = {raw, raw[::-1], quote(secret, safe="").encode(), orjson.dumps(secret)[1:-1]}
    found |= {raw.hex().encode(), raw.hex().upper().encode()}
    for before in range(3):
        for coded in (b64encode, urlsafe_b64encode):
            found.add(coded(b"\0" * before + raw).rstrip(b"=")[4 if before else 0 : -2])
    return found


class Lookout:
    """Knows the secrets; tells which text holds a piece of one."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._of: dict[bytes, str] = {}
        self._rest: dict[bytes, set[bytes]] = {}
        """Of a piece in hex: what has to follow, for ids are hex too."""
        for secret in secrets:
            for spelled in spellings(secret):
                is_hex = _HEX.fullmatch(spelled) is not None
                for start in range(len(spelled) - PIECE * (1 + is_hex) + 1):
                    piece, rest = spelled[start : start + PIECE], spelled[start + PIECE :]
                    self._of[piece] = secret
                    if is_hex:
                        self._rest.setdefault(piece, set()).add(rest[:PIECE])

    def sees(self, text: bytes) -> str | None:
        """Where the first piece stands, and what stands around it; None: there is none."""
        pieces = self._of
        for start in range(len(text) - PIECE + 1):
            piece = text[start : start + PIECE]
            if piece in pieces:
                rest = self._rest.get(piece)
                if rest is not None and text[start + PIECE : start + 2 * PIECE] not in rest:
                    continue
                secret = pieces[piece]
                return f"{secret} in {text[max(0, start - 80) : start + 60]!r}"
        return None


class Fuzz:
    """Requests with secrets in every place they have."""

    def __init__(self, seed: int, keys: Sequence[str], prompts: Sequence[str]) -> None:
        """`keys`: some of them are good. `prompts`: text that only the upstream should see."""
        self._roll = random.Random(seed)
        self._keys = keys
        self._prompts = prompts

    def requests(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield self._request()

    def _key(self) -> str:
        key = self._roll.choice(self._keys)
        form = self._roll.randrange(12)
        if form == 0:
            return b64encode(f"user:{key}".encode()).decode()
        if form == 1:
            return quote(key, safe="")
        return key

    def _prompt(self) -> str:
        return self._roll.choice(self._prompts)

    def _request(self) -> bytes:
        roll = self._roll
        body = self._body()
        lines = [self._line(), *self._credentials(), *self._odd()]
        if roll.random() < 0.9:
            lines.insert(1, "Host: proxy")
        framing = roll.random()
        if framing < 0.85:
            lines.append(f"Content-Length: {len(body)}")
        elif framing < 0.92:
            lines.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        elif framing < 0.96:
            lines.append("Transfer-Encoding: chunked")  # and what follows is no chunk
        else:
            lines.append(f"Content-Length: {len(body) + 5}")  # and it breaks off
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body

    def _line(self) -> str:
        roll, key, prompt = self._roll, self._key(), self._prompt()
        target = roll.choice(
            [
                *(["/v1/chat/completions"] * 8),
                *(["/v1/messages", "/api/paas/v4/chat/completions"] * 3),
                *("/v1/models", f"/v1/files/{prompt}", f"/v1/{prompt}/x", f"/{key}", f"/v1/{key}"),
                f"/v1/chat/completions?api_key={key}",
                f"/v1/files?key={key}&q={prompt}",
                f"/v1/x%20{quote(key, safe='')}",
                f"/v1/../{key}",
                f"http://{key}@host/v1/x",
                f"/v1/x?{key}#{prompt}",
                f"/v1/{'x' * 9000}{key}",
            ]
        )
        method = roll.choice([*(["POST"] * 12), "GET", "PUT", "OPTIONS", "TRACE", "CONNECT", key])
        version = roll.choice([*(["HTTP/1.1"] * 20), "HTTP/1.0", "HTTP/2.0", f"HTTP/{key}"])
        return f"{method} {target} {version}"

    def _credentials(self) -> list[str]:
        roll, key = self._roll, self._key()
        return roll.choice(
            [
                *([[f"Authorization: Bearer {key}"]] * 6),
                *([[f"x-api-key: {key}"]] * 3),
                [f"Authorization: {key}"],
                [f"Authorization: Basic {b64encode(key.encode()).decode()}"],
                [f"Authorization: Bearer {key}", f"x-api-key: {self._key()}"],
                [f"authorization:bearer\t{key}"],
                [f"Authorization: Bearer {key} {key}"],
                [],
            ]
        )

    def _odd(self) -> list[str]:
        roll, key, prompt = self._roll, self._key(), self._prompt()
        odd = (
            *(f"Cookie: session={key}", f"X-Auth-Token: {key}", f"Referer: https://a/?k={key}"),
            *(f"User-Agent: app/{key}", f"X-Title: {prompt}", f"Content-Type: text/{key}"),
            *(f"Expect: {key}", f"Host: {key}@host", f"Transfer-Encoding: {key}", f"{key}: x"),
            *(f"X-Request-Id: sk-{key}", f"traceparent: 00-{key}", f"tracestate: a={key}"),
            *(f"baggage: k={key}", f"Connection: {key}", f"Upgrade: {key}", f"{key}\x00: x"),
            *(f"x-glm-proxy-timeout-total: {key}", f"Content-Encoding: {key}", f"X: {key}\x01"),
            *(f"Idempotency-Key: {key}", f"anthropic-version: {key}", f"X-Big: {key * 400}"),
            *(f"Proxy-Authorization: Bearer {key}", f"Accept: {key}", f"Content-Length: {key}"),
            *(f"Authorization {key}", f" {key}", f"X-App: {key}", f"x-session-id: {prompt}"),
        )
        return roll.sample(odd, roll.choice([0, 0, 0, 1, 1, 2, 3]))

    def _body(self) -> bytes:
        roll, prompt = self._roll, self._prompt()
        fields: dict[str, object] = {
            "model": roll.choice([*(["glm-4.6"] * 8), "glm-4-flash", prompt, {prompt: 1}]),
            "stream": roll.choice([True, True, True, False, None, prompt]),
            "messages": roll.choice(
                [
                    *([[{"role": "user", "content": f"tell me of {prompt}"}]] * 6),
                    *([[{"role": prompt, "content": [{"type": "text", "text": prompt}]}]] * 2),
                    *(prompt, [], {prompt: prompt}),
                ]
            ),
        }
        for _ in range(roll.choice([0, 0, 1, 2])):
            name = roll.choice(["user", "tools", "max_tokens", "metadata", "temperature", prompt])
            fields[name] = roll.choice([prompt, self._key(), 1, [prompt], {"user_id": prompt}])
        body = orjson.dumps(fields)
        match roll.randrange(12):
            case 0:
                return body[: roll.randrange(len(body))]
            case 1:
                return body[:-1] + b',"%b":1,"%b":2}' % (prompt.encode(), prompt.encode())
            case 2:
                return prompt.encode() + body
            case 3:
                return body.replace(b'"content"', b'"content\xff"')
            case _:
                return body
