"""The kinds of single values that settings are made of, and the base of all sections."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
)

from proxy.config.secret import Sources
from proxy.config.units import Quantity


def _show_units(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Write the defaults of quantities into the JSON schema as a file would say them."""
    for name, field in model.model_fields.items():
        quantity = next((m for m in field.metadata if isinstance(m, Quantity)), None)
        if quantity is not None and isinstance(field.default, int | float):
            schema["properties"][name]["default"] = quantity.text(field.default)


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, inputs not shown in errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        json_schema_extra=_show_units,
    )
    later: ClassVar[frozenset[str]] = frozenset()
    """Settings of a later version: refused by that name."""


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

Name = Annotated[str, AfterValidator(_name)]
Flag = Annotated[bool, Field(strict=True)]
Port = Annotated[int, Field(strict=True, ge=0, le=65535)]
Count = Annotated[int, Field(strict=True, ge=1, le=10_000)]
CountOrZero = Annotated[int, Field(strict=True, ge=0, le=10_000)]
ExistingFile = Annotated[Path, AfterValidator(_existing)]
CaFile = Annotated[Path, AfterValidator(_existing), AfterValidator(_certificates)]
