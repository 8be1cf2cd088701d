"""GLM's business errors: code, HTTP status, text, and the bodies of its two dialects.

Source: the error pages of docs.bigmodel.cn and docs.z.ai. Codes are strings on the wire; clients
decide on the code, never on the text.
"""

from __future__ import annotations

import json
from typing import Final

import orjson

# code: (status, text). The status of 1110-1121, 1231, 1300, 1303 and 1312 is not in current tables.
CODES: Final[dict[str, tuple[int, str]]] = {
    "500": (500, "internal error"),
    "1000": (401, "identity could not be verified"),
    "1001": (401, "the Authorization header is missing"),
    "1002": (401, "the token is malformed"),
    "1003": (401, "the token has run out, make a new one"),
    "1004": (401, "the token did not verify"),
    "1005": (401, "second sign-in step needed"),
    "1110": (429, "the account is not active"),
    "1111": (429, "no such account"),
    "1112": (429, "the account is locked"),
    "1113": (429, "no balance or resource pack left"),
    "1120": (429, "the account cannot be read just now"),
    "1121": (429, "the account is locked for a violation"),
    "1200": (500, "the call failed"),
    "1210": (400, "a request parameter is wrong"),
    "1211": (400, "no such model"),
    "1212": (400, "this model cannot be called this way"),
    "1213": (400, "a required field did not arrive"),
    "1214": (400, "a field is not legal"),
    "1215": (400, "two fields cannot be set together"),
    "1220": (403, "no right to call this API"),
    "1221": (400, "this API has been taken down"),
    "1222": (404, "this API does not exist"),
    "1230": (500, "the call flow broke"),
    "1231": (400, "a request with this id is running"),
    "1234": (500, "network error, try again"),
    "1261": (400, "the prompt is too long"),
    "1300": (400, "a policy stopped the call"),
    "1301": (400, "input or output may be unsafe"),
    "1302": (429, "the account reached its rate limit"),
    "1303": (429, "calls come too often"),
    "1304": (429, "today's amount is used up"),
    "1305": (429, "the model is overloaded"),
    "1308": (429, "the five-hour window is used up, resets at 2026-07-20 00:00:00"),
    "1309": (429, "the coding plan has ended"),
    "1310": (429, "the weekly amount is used up, resets at 2026-07-20 00:00:00"),
    "1311": (429, "the plan does not include this model"),
    "1312": (429, "this model is crowded, use another"),
    "1313": (429, "fair use"),
    "1314": (429, "the team plan is no longer valid"),
    "1315": (429, "this key belongs to another product"),
    "1316": (429, "the five-hour window is used up, no balance for overage"),
}

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class Refusal(Exception):
    """An error in answer to a request; `status` and `text` default to those of the code."""

    def __init__(self, code: str, text: str | None = None, *, status: int | None = None) -> None:
        known_status, known_text = CODES.get(code, (500, "unknown error"))
        self.code = code
        self.text = known_text if text is None else text
        self.status = known_status if status is None else status
        super().__init__(f"{self.status}/{code}: {self.text}")


def glm_body(refusal: Refusal) -> bytes:
    """`{"error":{"code":"1302","message":"…"}}`: a response body, or an event inside a stream."""
    return orjson.dumps({"error": {"code": refusal.code, "message": refusal.text}})


def anthropic_error(refusal: Refusal, log_id: str) -> dict[str, str]:
    """The `error` object of the Anthropic dialect; the text carries code and log id in brackets."""
    return {
        "type": _ANTHROPIC_TYPES.get(refusal.status, "api_error"),
        "code": refusal.code,
        "message": f"[{refusal.code}][{refusal.text}][{log_id}]",
    }


def anthropic_body(refusal: Refusal, log_id: str) -> bytes:
    """The response body of the Anthropic base, with its spaces in the JSON."""
    body = {"type": "error", "error": anthropic_error(refusal, log_id), "request_id": log_id}
    return json.dumps(body, ensure_ascii=False).encode()
