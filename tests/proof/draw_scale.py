"""Numbers as a dashboard shows them, and the ticks of an axis. Pure."""

from __future__ import annotations

import math
from typing import Final

_SECONDS: Final = ((1e-6, 1e6, "µs"), (1e-3, 1e3, "ms"), (1.0, 1.0, "s"), (60.0, 1 / 60, "min"))
_LONGER: Final = ((3600.0, 1 / 3600, "h"), (86_400.0, 1 / 86_400, "days"))
_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_SHORT: Final = ((1e9, "G"), (1e6, "M"), (1e3, "K"))
_RATES: Final = {"reqps": " req/s", "cps": "/s", "cpm": "/min"}


def shown(value: float, unit: str = "none", decimals: int | None = None) -> str:
    """A value with its unit, in Grafana's names of units."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if unit == "s":
        return _seconds(value, decimals)
    if unit == "percentunit":
        return f"{_digits(value * 100, decimals)} %"
    if unit in ("bytes", "Bps"):
        return _bytes(value, decimals) + ("/s" if unit == "Bps" else "")
    if unit.startswith("suffix:"):
        return f"{_short(value, decimals)} {unit.removeprefix('suffix:').strip()}"
    return _short(value, decimals) + _RATES.get(unit, "")


def _seconds(value: float, decimals: int | None) -> str:
    size = abs(value)
    if size == 0:
        return "0 s"
    for most, (_, factor, name) in zip((1e-3, 1.0, 60.0, 3600.0), _SECONDS, strict=True):
        if size < most:
            return f"{_digits(value * factor, decimals)} {name}"
    _, factor, name = _LONGER[0] if size < 2 * 86_400 else _LONGER[1]
    return f"{_digits(value * factor, decimals)} {name}"


def _bytes(value: float, decimals: int | None) -> str:
    power = 0
    while abs(value) >= 1024 and power < len(_BYTES) - 1:
        value /= 1024
        power += 1
    return f"{_digits(value, decimals)} {_BYTES[power]}"


def _short(value: float, decimals: int | None) -> str:
    for size, name in _SHORT:
        if abs(value) >= size:
            return f"{_digits(value / size, decimals)} {name}"
    return _digits(value, decimals)


def _digits(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{float(text):.10f}".rstrip("0").rstrip(".") if "e" in text else text


def ticks(low: float, high: float, wanted: int = 4, binary: bool = False) -> list[float]:
    """Round numbers from at most `low` to at least `high`; the first and last are the axis' ends.

    `binary`: round in powers of two, for bytes.
    """
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / wanted
    step = 2.0 ** math.ceil(math.log2(rough)) if binary else _round_step(rough)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= rough * 0.999)


def moments(length: float, wanted: int = 6) -> list[float]:
    """Round seconds within a span that begins at 0."""
    steps = (5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
    step = next((one for one in steps if length / one <= wanted), 3600)
    return [float(n * step) for n in range(int(length // step) + 1)]


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
