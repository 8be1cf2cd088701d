"""The other GLM paths a pass-through has to carry: models, files, embeddings, speech."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import orjson

from proxy.simulator import checks, texts
from proxy.simulator.frames import DONE, Identity, Step
from proxy.simulator.ledger import Entry
from proxy.simulator.models import MODELS
from proxy.simulator.multipart import parts
from proxy.simulator.refusals import Refusal
from proxy.simulator.reply import Reply, streamed, whole

_RELEASED = 1767196800
_SLICE = 64 * 1024
_RATE = 8000


class _File(NamedTuple):
    fields: dict[str, Any]
    content: bytes


class Others:
    """Answers by method and path below `/api/paas/v4`; keeps the newest uploads."""

    KEPT_FILES = 16

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}

    def reply(self, path: str, entry: Entry, identity: Identity, packed: bool) -> Reply:
        """The answer; raises `Refusal`, 1222 for an unknown path. `packed` = JSON in gzip."""
        body = bytes(entry.body)
        match entry.method, path.strip("/").split("/"):
            case "GET", ["models"]:
                return _json(model_list(), packed)
            case "POST", ["embeddings"]:
                return _json(_embeddings(body), packed)
            case "POST", ["audio", "speech"]:
                return _speech(body)
            case "POST", ["audio", "transcriptions"]:
                return _transcription(entry.header("content-type"), body, identity, packed)
            case "POST", ["files"]:
                return _json(self._upload(entry.header("content-type"), body, identity), packed)
            case "GET", ["files"]:
                listed = [file.fields for file in self._files.values()]
                return _json({"object": "list", "data": listed, "has_more": False}, packed)
            case "GET", ["files", name, "content"]:
                return self._download(name)
            case "DELETE", ["files", name]:
                self._file(name)
                del self._files[name]
                return _json({"id": name, "object": "file", "deleted": True}, packed)
        raise Refusal("1222", f"no such API: {entry.method} {path}", status=404)

    def _upload(self, kind: str | None, body: bytes, identity: Identity) -> dict[str, Any]:
        fields = parts(kind, body)
        if "file" not in fields:
            raise Refusal("1213", "field file did not arrive")
        purpose = fields.get("purpose")
        file = fields["file"]
        name = f"file-{identity.id[14:]}"
        entry = {
            "id": name,
            "object": "file",
            "bytes": len(file.content),
            "created_at": identity.created,
            "filename": file.filename,
            "purpose": purpose.content.decode() if purpose else "batch",
        }
        self._files[name] = _File(entry, file.content)
        while len(self._files) > self.KEPT_FILES:
            self._files.pop(next(iter(self._files)))
        return entry

    def _file(self, name: str) -> _File:
        if name not in self._files:
            raise Refusal("1214", f"no such file: {name}", status=404)
        return self._files[name]

    def _download(self, name: str) -> Reply:
        file = self._file(name)
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-disposition", f'attachment; filename="{name}"'.encode()),
        ]
        return Reply(200, headers, _sliced(file.content), length=len(file.content))


def model_list() -> dict[str, Any]:
    """`GET /models`."""
    each = {"object": "model", "created": _RELEASED, "owned_by": "z-ai"}
    return {"object": "list", "data": [{"id": name, **each} for name in MODELS]}


def anthropic_model_list() -> dict[str, Any]:
    """`GET /v1/models` of the Anthropic base."""
    each = {"type": "model", "created_at": "2026-01-01T00:00:00Z"}
    models = [{"id": name, "display_name": name.upper(), **each} for name in MODELS]
    first, last = models[0]["id"], models[-1]["id"]
    return {"data": models, "first_id": first, "last_id": last, "has_more": False}


def _json(value: dict[str, Any], packed: bool) -> Reply:
    return whole(orjson.dumps(value), packed=packed)


def _embeddings(body: bytes) -> dict[str, Any]:
    fields = checks.parse(body)
    wanted = fields.get("input")
    inputs = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(inputs, list) or not inputs:
        raise Refusal("1213", "field input did not arrive")
    size = fields.get("dimensions", 1024)
    if not isinstance(size, int) or not 1 <= size <= 2048:
        raise Refusal("1210", "field dimensions is a number from 1 to 2048")
    tokens = sum(texts.estimate_tokens(str(text)) for text in inputs)
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(str(text), size)}
        for index, text in enumerate(inputs)
    ]
    return {
        "model": fields.get("model", "embedding-3"),
        "object": "list",
        "data": data,
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
    }


def _vector(text: str, size: int) -> list[float]:
    """Numbers of length 1 that depend on the text alone."""
    random = Random(text)
    values = [random.uniform(-1, 1) for _ in range(size)]
    norm = math.sqrt(sum(value * value for value in values))
    return [round(value / norm, 6) for value in values]


def _speech(body: bytes) -> Reply:
    """A WAV file with a tone, the longer the longer the text."""
    text = checks.parse(body).get("input")
    if not isinstance(text, str) or not text:
        raise Refusal("1213", "field input did not arrive")
    count = _RATE // 10 * len(text)
    tone = [round(8000 * math.sin(i * math.tau * 440 / _RATE)) for i in range(_RATE)]
    samples = struct.pack(f"<{count}h", *(tone[i % _RATE] for i in range(count)))
    shape = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _RATE, 2 * _RATE, 2, 16)
    data = struct.pack("<4sI", b"data", len(samples)) + samples
    riff = struct.pack("<4sI4s", b"RIFF", 4 + len(shape) + len(data), b"WAVE")
    return Reply(200, [(b"content-type", b"audio/wav")], _sliced(riff + shape + data))


def _transcription(kind: str | None, body: bytes, identity: Identity, packed: bool) -> Reply:
    fields = parts(kind, body)
    if "file" not in fields:
        raise Refusal("1213", "field file did not arrive")
    head = {"id": identity.id, "created": identity.created, "model": "glm-asr-2512"}
    said = "风小了，船可以出港。"
    stream = fields.get("stream")
    if stream is not None and stream.content == b"true":
        return streamed(_transcript_events(head, said), head_at=0.0)
    return _json({**head, "request_id": identity.id, "text": said}, packed)


def _transcript_events(head: dict[str, Any], said: str) -> Iterator[Step]:
    for character in said:
        fields = {**head, "type": "transcript.text.delta", "delta": character}
        yield Step(0.0, b"data: " + orjson.dumps(fields) + b"\n\n")
    fields = {**head, "type": "transcript.text.done", "delta": ""}
    yield Step(0.0, b"data: " + orjson.dumps(fields) + b"\n\n")
    yield Step(0.0, DONE)


def _sliced(content: bytes) -> Iterator[Step]:
    for start in range(0, len(content), _SLICE):
        yield Step(0.0, content[start : start + _SLICE])
