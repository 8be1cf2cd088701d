"""Metrics as text, in pieces, so that a scrape can give way to the streams on the same loop.

The two formats that Prometheus asks for:
https://prometheus.io/docs/instrumenting/exposition_formats/
https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from proxy.observe.series import Catalogue, escaped, number

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Exposition(NamedTuple):
    """One scrape's answer; the pieces are made as they are asked for."""

    content_type: str
    pieces: Iterator[bytes]


def exposition(catalogue: Catalogue, accept: str) -> Exposition:
    """All figures, in the format that an `Accept` header asks for."""
    if "application/openmetrics-text" in accept.lower():
        return Exposition(OPEN_METRICS, _open_metrics(catalogue))
    return Exposition(PLAIN, _plain(catalogue))


def _plain(catalogue: Catalogue) -> Iterator[bytes]:
    for instrument in catalogue.instruments:
        meaning = escaped(instrument.meaning, quote=False)
        yield _head(instrument.name, instrument.kind, meaning)
        for text in instrument.text():
            yield text.encode()
    for metric in catalogue.plain.collect():
        name, kind = metric.name, metric.type
        if kind == "counter":
            name += "_total"
        elif kind == "info":
            name, kind = name + "_info", "gauge"
        yield _head(name, kind, escaped(metric.documentation, quote=False)) + _samples(metric)


def _open_metrics(catalogue: Catalogue) -> Iterator[bytes]:
    for instrument in catalogue.instruments:
        name = instrument.name.removesuffix("_total")
        yield _head(name, instrument.kind, escaped(instrument.meaning))
        for text in instrument.text():
            yield text.encode()
    for metric in catalogue.plain.collect():
        yield _head(metric.name, metric.type, escaped(metric.documentation)) + _samples(metric)
    yield b"# EOF\n"


def _head(name: str, kind: str, meaning: str) -> bytes:
    return f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n".encode()


def _samples(metric: Metric) -> bytes:
    return "".join(map(_line, metric.samples)).encode()


def _line(sample: Sample) -> str:
    if sample.name.endswith("_created"):  # one more series for each: more noise than use
        return ""
    if not sample.labels:
        return f"{sample.name} {number(sample.value)}\n"
    labels = ",".join([f'{name}="{escaped(text)}"' for name, text in sample.labels.items()])
    return f"{sample.name}{{{labels}}} {number(sample.value)}\n"
