"""Answers in JSON, and what is wrong with a request, as all of `/admin/` says it."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from aiohttp import web


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
