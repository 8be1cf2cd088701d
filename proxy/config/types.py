"""The kinds of single values that settings are made of, and the base of all sections."""

from __future__ import annotations

import operator
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
)
from pydantic_core import CoreSchema, core_schema

from proxy.config.problems import shown
from proxy.config.secret import Sources
from proxy.config.units import Quantity, Rank


def _show_units(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Write the defaults of quantities into the JSON schema as a file would say them."""
    for name, field in model.model_fields.items():
        unit = next((m for m in field.metadata if isinstance(m, Quantity | Rank)), None)
        if unit is not None and isinstance(field.default, int | float):
            schema["properties"][name]["default"] = unit.text(field.default)


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, inputs not shown in errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        json_schema_extra=_show_units,
    )
    gone: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Settings that others expect here, those of an earlier version too: what to do instead."""


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        raise ValueError("must be 1 to 64 letters, digits, '.', '_' or '-'")
    return value


def _off(value: object) -> object:
    """YAML 1.1 reads a bare `off` as false."""
    return "off" if value is False else value


def _existing(path: Path, info: ValidationInfo) -> Path:
    """A path in a settings file begins at that file's folder, and must be there."""
    if isinstance(info.context, Sources):
        path = info.context.path(str(path))
    try:
        found = path.is_file()
    except ValueError:
        found = False
    if not found:
        raise ValueError(f"there is no file {str(path)!r}; correct the path")
    return path


def _certificates(path: Path) -> Path:
    try:
        text = path.read_text(encoding="ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except PermissionError as error:
        text = f"{str(path)!r} cannot be read: {error.strerror}; correct its permissions"
        raise ValueError(text) from None
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        text = f"{str(path)!r} cannot be read as PEM certificates (-----BEGIN CERTIFICATE-----)"
        raise ValueError(text) from None
    return path


OFF: Final = BeforeValidator(_off)
"""For a choice that has `off` among its words."""
SILENT_IF_EMPTY: Final = Field(exclude_if=operator.not_)
"""For a list that is empty only where the key is left out: printed settings leave it out too."""


@dataclass(frozen=True, slots=True)
class OrOff:
    """For a section that the word `off` may stand for; its type says `Section | Literal["off"]`.

    A union would tell each mistake twice, once for each of its halves.
    """

    example: str
    """The section as a settings file would say it."""

    def _read(
        self, value: object, section: ValidatorFunctionWrapHandler
    ) -> Section | Literal["off"]:
        if value is False or value == "off":
            return "off"
        if not isinstance(value, dict | Section):
            raise ValueError(f"found {shown(value)}, must be off or a mapping: {self.example}")
        read: Section = section(value)
        return read

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        section = handler.generate_schema(get_args(source)[0])
        return core_schema.no_info_wrap_validator_function(
            self._read,
            section,
            serialization=core_schema.wrap_serializer_function_ser_schema(_shown, schema=section),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"const": "off"}]}


def _shown(value: Section | Literal["off"], section: SerializerFunctionWrapHandler) -> object:
    return value if value == "off" else section(value)


Name = Annotated[str, AfterValidator(_name)]
Flag = Annotated[bool, Field(strict=True)]
Port = Annotated[int, Field(strict=True, ge=0, le=65535)]
Count = Annotated[int, Field(strict=True, ge=1, le=10_000)]
CountOrZero = Annotated[int, Field(strict=True, ge=0, le=10_000)]
ExistingFile = Annotated[Path, AfterValidator(_existing)]
CaFile = Annotated[Path, AfterValidator(_existing), AfterValidator(_certificates)]
