"""Answers in JSON, and what is wrong with a request, as all of `/admin/` says it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import TypeVar

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ConfigDict, ValidationError

from proxy.state.home import StateError


class Refused(Exception):
    """The request is answered with an error: see `refusal`, and `refusing`."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param

    def answer(self) -> web.Response:
        return refusal(self.status, self.code, self.message, param=self.param)


class Order(BaseModel):
    """The body of a request: what it may say, and nothing besides."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


AnyOrder = TypeVar("AnyOrder", bound=Order)


def as_json(
    content: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """`content`, whose values are JSON's own types."""
    body = orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def refusal(
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    retry_after: int | None = None,
) -> web.Response:
    """An error: `param` names the field that is wrong, `retry_after` is in seconds."""
    error: dict[str, object] = {"code": code, "message": message}
    if param is not None:
        error["param"] = param
    headers = None if retry_after is None else {"Retry-After": str(retry_after)}
    return as_json({"error": error}, status, headers)


def refusing(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Handler:
    """The handler, with what it raises as an answer: Refused, and StateError as 503."""

    @wraps(handler)
    async def answered(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refused:
            return refused.answer()
        except StateError as error:
            return refusal(503, "state_unavailable", str(error))

    return answered


# --- what a request says -------------------------------------------------------------------------


async def order(request: web.Request, kind: type[AnyOrder]) -> AnyOrder:
    """The body, read strictly: quantities with their units. Raises Refused."""
    if request.content_type != "application/json":
        raise Refused(415, "bad_request", "send JSON, as content-type: application/json")
    try:
        return kind.model_validate_json(await request.read(), context={})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        message = first["msg"].removeprefix("Value error, ")
        raise Refused(400, "bad_request", f"{where}: {message}") from None


def limit(request: web.Request, *, usual: int, most: int) -> int:
    """How many are asked for: `?limit=N`. Raises Refused."""
    values = request.query.getall("limit", [])
    if not values:
        return usual
    number = _number(values[0], most)
    if len(values) > 1 or number is None:
        message = f"limit must be a whole number from 1 to {most}"
        raise Refused(400, "wrong_query", message, "limit")
    return number


def _number(text: str, most: int) -> int | None:
    """A count in plain digits; None: it is none, or too large a one."""
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(most)):
        return None
    number = int(text)
    return number if 1 <= number <= most else None
