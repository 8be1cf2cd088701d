"""Traces leave here: spans of finished exchanges, sent by OTLP over HTTP, never waited for.

The SDK's batch processor has the queue, of whole exchanges, and the thread, which makes the spans.
What finds the queue full, or what the collector does not take, is dropped and counted. Of all that
only a change is logged, once: the exporter's own messages come with each batch, and may quote a
header.

This module needs the extra `otel`, and is imported only where tracing is on. What is not among our
settings (proxies, certificates of the collector's, OTEL_* variables) is not read: the command line
takes OTEL_* out of the environment before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from proxy import __version__
from proxy.config import Tracing as Settings
from proxy.core.record import Record
from proxy.observe.app_log import LOGGER
from proxy.observe.spans import Address, Clock, Finished, Spans, sampled

log = logging.getLogger(LOGGER)

_PATH: Final = "/v1/traces"
_QUEUE: Final = 2048
"""Exchanges that may wait: some megabytes."""
_BATCH: Final = 64
"""Exchanges that are sent at once. Each takes some 0.2 ms, in which the event loop may have to wait
for the interpreter (up to 5 ms, then it is handed over); with smaller batches it is more."""
_EVERY: Final = 1.0
"""Seconds in which exchanges gather."""
_TIMEOUT: Final = 5.0
"""Seconds for one batch, repetitions included."""
_LONGEST_ANSWER: Final = 64 * 1024
"""Bytes of a collector's answer that are read, and not looked at: its status says all."""
_LAST_LOOK: Final = 0.2
"""Seconds for the thread to end once it was told that nobody waits."""
_NOISY: Final = ("opentelemetry.exporter", "urllib3")
_PORTS: Final = {"http": 80, "https": 443}


class Tracing:
    """Sends the spans of finished exchanges. For the event loop's thread, but for `close`."""

    def __init__(self, settings: Settings, endpoints: Mapping[str, str]) -> None:
        """`endpoints`: the base URL of each. Starts a thread."""
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        spans = Spans(settings.service, __version__, _addresses(endpoints))
        self._delivery = _Delivery(settings, spans)
        self._processor = BatchSpanProcessor(
            self._delivery,
            max_queue_size=_QUEUE,
            schedule_delay_millis=_EVERY * 1000,
            max_export_batch_size=_BATCH,
        )
        self._given = 0
        self._refused = 0

    def use(self, endpoints: Mapping[str, str]) -> None:
        """From now on these base URLs."""
        self._delivery.spans.addresses = _addresses(endpoints)

    @property
    def dropped(self) -> int:
        """Spans lost since the start: the queue was full, or the collector did not take them."""
        return self._refused + self._delivery.lost

    def finish(self, record: Record) -> None:
        """Sends what is sampled of a finished exchange. Never blocks."""
        count = sum(1 for _ in sampled(record))
        if not count:
            return
        if self._given - self._delivery.taken >= _QUEUE:
            self._refused += count
            return
        self._given += 1
        self._processor.on_end(Finished(record, Clock(time.monotonic(), time.time_ns())))

    def close(self, timeout: float) -> None:
        """Waits up to `timeout` seconds, and a moment, for what waits to be sent."""
        ending = threading.Thread(target=self._processor.shutdown, name="trace-end", daemon=True)
        ending.start()
        ending.join(timeout)
        if ending.is_alive():
            self._delivery.give_up()
            ending.join(_LAST_LOOK)


class _Delivery(SpanExporter):
    """Brings batches to the collector, and tells how that goes. Called by the SDK's thread."""

    def __init__(self, settings: Settings, spans: Spans) -> None:
        self.taken = 0
        """Exchanges that wait no more."""
        self.lost = 0
        """Spans."""
        self.spans = spans
        self._status: int | None = None
        """Of the latest answer to a batch."""
        self._failing = False
        self._given_up = False
        self._endpoint = settings.endpoint
        session = requests.Session()
        session.trust_env = False  # proxies and credentials of the environment's
        session.stream = True  # `_answered` reads
        session.hooks["response"].append(self._answered)
        self._exporter = OTLPSpanExporter(
            endpoint=settings.endpoint + _PATH,
            headers={name: value.reveal() for name, value in settings.headers.items()},
            timeout=_TIMEOUT,
            compression=Compression.NoCompression,
            session=session,
        )

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """What is in the queue are finished exchanges."""
        self.taken += len(spans)
        waited = (one for one in spans if isinstance(one, Finished))
        spans = [span for one in waited for span in self.spans.of(one)]
        result = SpanExportResult.FAILURE
        if not self._given_up:
            self._status = None
            result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._tell(failing=False)
        else:
            self.lost += len(spans)
            self._tell(failing=True)
        return result

    def give_up(self) -> None:
        """Nobody waits any more: a pause between two tries ends, and no batch is sent."""
        self._given_up = True
        self.shutdown()

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _answered(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self._status = response.status_code
        response.raw.read(_LONGEST_ANSWER, decode_content=False)
        response.close()  # of a connection that was read to the end nothing is closed

    def _tell(self, *, failing: bool) -> None:
        if failing == self._failing:
            return
        self._failing = failing
        if not failing:
            log.warning("tracing.endpoint %s takes traces again", self._endpoint)
            return
        reason = "no answer" if self._status is None else f"status {self._status}"
        log.warning(
            "tracing.endpoint %s takes no traces (%s); they are dropped and counted",
            self._endpoint,
            reason,
        )


def _addresses(endpoints: Mapping[str, str]) -> dict[str, Address]:
    return {name: _address(url) for name, url in endpoints.items()}


def _address(url: str) -> Address:
    parts = urlsplit(url)
    return Address(parts.hostname or "", parts.port or _PORTS[parts.scheme])
