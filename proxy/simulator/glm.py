"""The GLM API: from one request to one played reply. It knows nothing of HTTP's versions."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import ExitStack

import orjson

from proxy.simulator import others
from proxy.simulator.admission import key_of
from proxy.simulator.call import fault_in
from proxy.simulator.chat import Chat, takes_gzip
from proxy.simulator.checks import Fields, parse
from proxy.simulator.dialects import ANTHROPIC, GLM, Dialect
from proxy.simulator.fault_queue import FaultQueue
from proxy.simulator.faults import ORDINARY, Fault
from proxy.simulator.identity import Asked, asked, common_headers
from proxy.simulator.ledger import Entry, Headers, Ledger
from proxy.simulator.play import Player
from proxy.simulator.refusals import Refusal
from proxy.simulator.reply import Outlet, Reply, streamed, whole
from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.shape import replayed

_PAAS = ("/api/paas/v4", "/api/coding/paas/v4")
_ANTHROPIC = "/api/anthropic"
_CHAT = {
    **{f"{base}/chat/completions": GLM for base in _PAAS},
    f"{_ANTHROPIC}/v1/messages": ANTHROPIC,
}
_HTML = b"text/html; charset=utf-8"
_PAGE = (
    b'<!doctype html><html lang="zh-cn"><title>405</title>'
    b"<body>blocked by the edge firewall</body></html>\n"
)
# What other paths on the host answer, with status 200: the envelope of its management pages.
_NOT_FOUND = b'{"code":500,"msg":"404 NOT_FOUND"}'
_QUOTA = {"1308", "1310", "1316"}


class Glm:
    """The service behind all listeners."""

    def __init__(self, settings: SimulatorSettings, ledger: Ledger, faults: FaultQueue) -> None:
        self._settings = settings
        self._ledger = ledger
        self._faults = faults
        self._chat = Chat(settings)
        self._others = others.Others()
        self._asked: Counter[str | None] = Counter()
        """Requests so far, by the key as it was sent."""

    def use(self, profile: str) -> None:
        """From now on the times of this profile; limits stay. Raises KeyError."""
        self._chat.use(profile)

    async def serve(self, entry: Entry, out: Outlet) -> None:
        """Answers one request; returns when the response is ended."""
        key, settings = entry.header("authorization"), self._settings
        self._asked[key] += 1
        request = asked(entry, self._asked[key], settings.seed, reproducible=settings.reproducible)
        entry.log_id = request.identity.id
        early = self._faults.take_early(entry.path)
        await out.body(None if early is None else early.early)
        connecting = self._chat.connected_at(entry) - time.monotonic()
        if connecting > 0:
            await asyncio.sleep(connecting)
        entry.accepted = time.monotonic()
        self._ledger.changed()
        with ExitStack() as running:
            fault, reply = self._decide(request, early, running)
            entry.fault = None if fault is ORDINARY else fault.text()
            if fault.wire is not None:
                await out.wire(fault.wire)
                self._ledger.finished(entry)
                return
            reply.headers += common_headers(request, reply.head_at + fault.delay)
            await Player(self._ledger, entry, out, self._settings.time_scale).play(reply, fault)

    def _decide(
        self, request: Asked, early: Fault | None, running: ExitStack
    ) -> tuple[Fault, Reply]:
        chat = _CHAT.get(request.entry.path)
        errors = ANTHROPIC if request.entry.path.startswith(_ANTHROPIC) else GLM
        fault = early or ORDINARY
        try:
            fields = {} if chat is None or early else self._fields(request)
            fault = early or self._fault(request.entry, fields)
            told = _told(fault, errors)
            if told is not None:
                return fault, told
            if chat is None:
                return fault, self._other(request)
            return fault, self._chat.reply(chat, request, fields, fault, running)
        except Refusal as refusal:
            return fault, self._refused(refusal, errors, request)

    def _fields(self, request: Asked) -> Fields:
        fields = parse(bytes(request.entry.body))
        request.entry.model = str(fields.get("model", "")) or None
        return fields

    def _fault(self, entry: Entry, fields: Fields) -> Fault:
        """What the request itself asks for, else what is next in the queue."""
        own = fault_in(fields)
        return own or self._faults.take(entry.path, entry.model or "") or ORDINARY

    def _other(self, request: Asked) -> Reply:
        path = request.entry.path
        base = next((b for b in (*_PAAS, _ANTHROPIC) if path.startswith(b + "/")), None)
        if base is None or path.endswith("/count_tokens"):
            return whole(_NOT_FOUND, status=200 if base is None else 404)
        key_of(request.entry, anthropic=base == _ANTHROPIC)
        packed = takes_gzip(request)
        if base != _ANTHROPIC:
            rest = path.removeprefix(base)
            return self._others.reply(rest, request.entry, request.identity, packed)
        if path == f"{_ANTHROPIC}/v1/models":
            return whole(orjson.dumps(others.anthropic_model_list()), packed=packed)
        raise Refusal("1222", f"no such API: {path}", status=404)

    def _refused(self, refusal: Refusal, dialect: Dialect, request: Asked) -> Reply:
        body = dialect.refused(refusal, request.identity.id)
        at = self._chat.refusal_takes(request)
        reply = whole(body, status=refusal.status, at=at, packed=takes_gzip(request))
        if dialect is ANTHROPIC and refusal.code in _QUOTA:
            reply.headers += _quota_headers(request.entry)
        return reply


def _told(fault: Fault, dialect: Dialect) -> Reply | None:
    """The response a fault puts in the answer's place; raises `Refusal` when that is an error."""
    if fault.html:
        return whole(_PAGE, status=fault.status or 200, kind=_HTML)
    if fault.refuses:
        raise Refusal(fault.code or "500", status=fault.status)
    if fault.raw is None:
        return None
    first = fault.first_token or 0.0
    steps = replayed(fault.raw, first, fault.gap or 0.0)
    return streamed(steps, head_at=first, kind=dialect.event_stream)


def _quota_headers(entry: Entry) -> Headers:
    """Only a client that sent Claude Code's beta header is told when its quota returns."""
    if entry.header("anthropic-beta") is None:
        return []
    return [
        (b"retry-after", b"287441"),
        (b"anthropic-ratelimit-unified-status", b"rejected"),
    ]
