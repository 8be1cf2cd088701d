"""Quantities in settings: `10s`, `64KiB`, `5%`, `p90`. Read with their unit, kept as numbers.

Durations are floats in seconds and sizes are ints in bytes once read. A settings file must say the
unit, because `timeout: 30` has been read as milliseconds by somebody before; code that builds a
model directly (a test) gives seconds and bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import (
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
)
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One kind of quantity: its word in messages, its units from small to large, its limit."""

    word: str
    units: Mapping[str, float]
    example: str
    usual: str
    """The unit to suggest when a number came without one."""
    most: float
    whole: bool


DURATION: Final = Unit(
    word="a duration",
    units=MappingProxyType({"ms": 0.001, "s": 1, "m": 60, "h": 3600}),
    example="10s, 250ms, 2m or 1h",
    usual="s",
    most=24 * 3600,
    whole=False,
)
SPAN: Final = Unit(
    word="a span of time",
    units=MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86400}),
    example="30m, 2h or 7d",
    usual="h",
    most=366 * 86400,
    whole=False,
)
"""For what is measured in days as well: how long a key lives, how long a model is switched."""
SIZE: Final = Unit(
    word="a size",
    units=MappingProxyType({"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}),
    example="64KiB, 8MiB or 512B",
    usual="B",
    most=1 << 40,
    whole=True,
)


SHARE: Final = Unit(
    word="a share",
    units=MappingProxyType({"%": 0.01}),
    example="5% or 10%",
    usual="%",
    most=1,
    whole=False,
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """Annotation of a setting that holds a quantity; `zero` says that 0 has a meaning there."""

    unit: Unit
    zero: bool = False

    def read(self, value: object, *, strict: bool) -> float:
        """The number in base units. `strict`: a bare number other than 0 is refused.

        Raises ValueError, whose text says what was found and what to write.
        """
        number = self._number(value, strict=strict)
        if number < 0 or (number == 0 and not self.zero):
            raise ValueError(f"found {value!r}, must be more than 0, such as {self.unit.example}")
        if number > self.unit.most:
            raise ValueError(f"found {value!r}, must be at most {self.text(self.unit.most)}")
        if not self.unit.whole:
            return float(number)
        if number != int(number):
            raise ValueError(f"found {value!r}, must come to a whole number of bytes")
        return int(number)

    def text(self, number: float) -> str | int:
        """The number as a settings file would say it: the largest unit that keeps it whole."""
        if number == 0:
            return 0
        smallest, least = next(iter(self.unit.units.items()))
        # Rounded, because 0.1 / 0.001 is not 100 in binary.
        count = round(number / least, 6)
        for name, factor in reversed(tuple(self.unit.units.items())):
            times = round(factor / least)
            if count % times == 0:
                return f"{int(count // times)}{name}"
        return f"{count:f}".rstrip("0") + smallest

    def _number(self, value: object, *, strict: bool) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            if value != 0 and strict:
                raise ValueError(f"found {value!r} without a unit; {self._with_unit(value)}")
            return value
        if not isinstance(value, str):
            raise ValueError(f"must be {self.unit.word}, such as {self.unit.example}")
        match = _TEXT.fullmatch(value.strip())
        factor = self.unit.units.get(match["unit"]) if match else None
        if match is None or factor is None:
            found = f"found {value!r}, " if len(value) <= 24 else ""
            raise ValueError(f"{found}must be {self.unit.word}, such as {self.unit.example}")
        return float(match["number"]) * factor

    def _with_unit(self, value: float) -> str:
        """What to write for a bare number."""
        if len(self.unit.units) == 1:  # 0.05 is as likely to be meant as 5
            return f"write {self.unit.word} such as {self.unit.example}"
        units = ", ".join(self.unit.units)
        return f"write {value!r}{self.unit.usual}, or another unit of {units}"

    def _validate(self, value: object, info: ValidationInfo) -> float:
        return self.read(value, strict=info.context is not None)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                self.text, when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        pattern = rf"^\d+(\.\d+)? ?({'|'.join(self.unit.units)})$"
        text: dict[str, Any] = {"type": "string", "pattern": pattern}
        return {"anyOf": [text, {"const": 0}]} if self.zero else text


_TEXT: Final = re.compile(r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?P<unit>[A-Za-z]+|%)")

Seconds = Annotated[float, Quantity(DURATION)]
SecondsOrZero = Annotated[float, Quantity(DURATION, zero=True)]
Span = Annotated[float, Quantity(SPAN)]
SpanOrZero = Annotated[float, Quantity(SPAN, zero=True)]
Bytes = Annotated[int, Quantity(SIZE)]
BytesOrZero = Annotated[int, Quantity(SIZE, zero=True)]
Share = Annotated[float, Quantity(SHARE, zero=True)]
"""0.05 for `5%`."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Annotation of a setting that is a percentile: 0.9 for `p90`."""

    def read(self, value: object, *, strict: bool) -> float:
        """The share of values below it. `strict`: only text. Raises ValueError."""
        if isinstance(value, float) and 0 < value < 1 and not strict:
            return value
        match = _RANK.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None or not float(match[1]):
            short = isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 24)
            found = f"found {value!r}, " if short else ""
            raise ValueError(f"{found}must be a percentile, such as p50, p90 or p99.5")
        return round(float(match[1]) / 100, 6)

    def text(self, share: float) -> str:
        """The percentile as a settings file would say it."""
        return f"p{round(share * 100, 3):g}"

    def _validate(self, value: object, info: ValidationInfo) -> float:
        return self.read(value, strict=info.context is not None)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                self.text, when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^p\d{1,2}(\.\d{1,3})?$"}


_RANK: Final = re.compile(r"p([0-9]{1,2}(?:\.[0-9]{1,3})?)")

Percentile = Annotated[float, Rank()]
"""0.9 for `p90`."""


def as_duration(text: str) -> float:
    """Seconds, from where a person may leave the unit out: `250ms`, `5s`, or `5` for seconds.

    Raises ValueError, whose text says what was found and what to write.
    """
    number = text.strip()
    bare = re.fullmatch(r"[0-9]{1,15}(?:\.[0-9]{1,9})?", number)
    return Quantity(DURATION).read(f"{number}s" if bare else number, strict=True)
