"""What each model accepts: records read from data, so that a new model needs no code.

`config/models.yaml` is the data. A model without a record is passed through untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Values of `reasoning_effort`, from least to most."""

Tokens = Annotated[int, Field(gt=0)]
Range = Annotated[tuple[float, float], Field(min_length=2, max_length=2)]


class _Record(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class Price(_Record):
    """US dollars for a million tokens; None is not known."""

    input: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)
    output: float = Field(ge=0)


class Capability(_Record):
    """One model, or the models of one pattern. None is "not documented"."""

    family: str
    """What it is a variant of: `glm-4.6`."""
    rank: int
    """Our own order of strength; only its order means something, higher is stronger."""
    thinking: Literal["toggle", "effort", "forced", "none"]
    """How thinking is steered.

    toggle  `thinking.type` switches it on and off
    effort  it cannot be switched off; `reasoning_effort` shortens it
    forced  it always thinks, nothing steers it
    none    it does not think
    """
    thinks: bool = False
    """Whether it thinks when the request does not say."""
    efforts: tuple[Effort, ...] = Field(default=(), strict=False)
    """Accepted values of `reasoning_effort`, least first; empty: the field is not accepted."""
    temperature: Range | None = Field(default=None, strict=False)
    """Least and most."""
    top_p: Range | None = Field(default=None, strict=False)
    """Least and most."""
    context: Tokens | None = None
    """Tokens of prompt and answer together."""
    max_output: Tokens | None = None
    """Most tokens of an answer: the limit of `max_tokens`."""
    tools: bool = True
    """Takes function tools."""
    tool_stream: bool = False
    """Takes `tool_stream`: tool arguments come in pieces."""
    in_flight: Tokens | None = None
    """Requests of one key that may run at once, where it is known."""
    free: bool = False
    """Costs nothing."""
    price: Price | None = None
    listed: bool = True
    """Among the models of the current documentation; others are known, and not offered."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.thinking == "effort" and not self.efforts:
            raise ValueError("thinking: effort needs efforts, such as [low, high]")
        if list(self.efforts) != sorted(self.efforts, key=EFFORTS.index):
            raise ValueError(f"efforts must be in the order {', '.join(EFFORTS)}")
        for name, limits in (("temperature", self.temperature), ("top_p", self.top_p)):
            if limits is not None and limits[0] > limits[1]:
                raise ValueError(f"{name} must be [least, most]")
        if self.free and self.price is not None:
            raise ValueError("free models have no price; remove one of them")
        return self


class _Document(_Record):
    models: dict[str, Capability]


class Capabilities:
    """All records, looked up by model name. Built once."""

    def __init__(self, models: Mapping[str, Capability]) -> None:
        self._named = {name: one for name, one in models.items() if not is_pattern(name)}
        self._patterns = tuple((name, one) for name, one in models.items() if is_pattern(name))

    def of(self, model: str) -> Capability | None:
        """The record of that very name, else of the first pattern it matches, else None."""
        named = self._named.get(model)
        if named is not None:
            return named
        for pattern, record in self._patterns:
            if fnmatchcase(model, pattern):
                return record
        return None

    def listed(self) -> tuple[str, ...]:
        """Names of the current models, in the data's order."""
        return tuple(name for name, record in self._named.items() if record.listed)


def load(document: Mapping[str, Any]) -> Capabilities:
    """Records from parsed YAML: `models:`, a mapping of names or shell patterns to records.

    Raises ValueError that names every wrong place.
    """
    try:
        return Capabilities(_Document.model_validate(document).models)
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, problem['loc'])) or 'models'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise ValueError("\n".join(problems)) from None


def is_pattern(name: str) -> bool:
    """Whether `name` is a shell pattern rather than a name."""
    return any(character in name for character in "*?[")
