"""Every way an exchange can fail: whose fault it is, its status, whether a new attempt may follow.

Foreign exceptions (sockets, TLS, aiohttp, HTTP/2) become one of these where they enter, in `net`,
and nowhere else. Each error knows the two bodies a client can be told it in: the OpenAI/GLM one,
`{"error": {"code", "message", "type", "param"}}`, and Anthropic's `{"type": "error", "error": …}`.
"""

from __future__ import annotations

from enum import StrEnum

import orjson


class Source(StrEnum):
    """The side an error comes from."""

    CLIENT = "client"
    PROXY = "proxy"
    UPSTREAM = "upstream"


class ProxyError(Exception):
    """Base of all errors an exchange can end with.

    `code` is the outcome's name in logs and metrics and the `code` a client reads; `retryable`
    says that a new attempt is safe: the failure proves that the upstream did no work.
    """

    source: Source = Source.PROXY
    status: int = 500
    code: str = "internal_error"
    type: str = "api_error"
    retryable: bool = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def told(self) -> dict[str, str | None]:
        """The error as an object in JSON, in the words of GLM and OpenAI."""
        return {"code": self.code, "message": self.message, "type": self.type, "param": self.param}

    def openai_body(self) -> bytes:
        """The error as GLM and OpenAI clients read it."""
        return orjson.dumps({"error": self.told()})

    def anthropic_body(self) -> bytes:
        """The error as Anthropic clients read it."""
        kind = _ANTHROPIC_TYPES.get(self.status, "api_error")
        error = {"type": kind, "code": self.code, "message": self.message}
        return orjson.dumps({"type": "error", "error": error})


# https://docs.anthropic.com/en/api/errors
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    410: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    417: "invalid_request_error",
    429: "rate_limit_error",
    431: "request_too_large",
    501: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
    505: "invalid_request_error",
}


# --- the client's side -------------------------------------------------------------------------


class ClientError(ProxyError):
    """The request itself is wrong; the same request will fail again."""

    source = Source.CLIENT
    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class BadHead(ClientError):
    """The head of the request cannot be trusted: the connection is closed behind the answer."""


class ExpectationFailed(BadHead):
    status = 417


class UpgradeRequired(ClientError):
    """A WebSocket of another version is asked for."""

    status = 426


class HeadTooLarge(BadHead):
    status = 431


class Unsupported(BadHead):
    status = 501


class VersionNotSupported(BadHead):
    status = 505


class Unauthorized(ClientError):
    """No key, or one that is not (or no longer) good; which of them is not told."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"

    def __init__(self, reason: str) -> None:
        super().__init__(
            "send a key of this proxy that is good, as Authorization: Bearer KEY or x-api-key: KEY"
        )
        self.reason = reason
        """For the operator."""


class Forbidden(ClientError):
    """The key is good, but not for this."""

    status = 403
    code = "not_allowed"
    type = "permission_error"


class NotFound(ClientError):
    status = 404
    code = "not_found"
    type = "not_found_error"


class Forgotten(ClientError):
    """A kept stream is asked for from a place that it does not have any more."""

    status = 410
    code = "stream_forgotten"


class MethodNotAllowed(ClientError):
    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class RequestTimeout(ClientError):
    status = 408
    code = "request_timeout"


class RequestTooLarge(ClientError):
    status = 413
    code = "request_too_large"


class UnsupportedEncoding(ClientError):
    status = 415
    code = "unsupported_encoding"


class PreviousResponseNotFound(ClientError):
    """Of the Responses API: what a request is to follow is not there, or not for this caller."""

    code = "previous_response_not_found"


class ClientStalled(ClientError):
    """A chat on a WebSocket asked for no more events for too long."""

    status = 408
    code = "client_stalled"


class ClientGone(ClientError):
    """The client left before its answer was whole. Not a failure of anybody (nginx's 499)."""

    status = 499
    code = "client_gone"


# --- the upstream's side -----------------------------------------------------------------------


class UpstreamError(ProxyError):
    """The upstream, or the road to it, failed."""

    source = Source.UPSTREAM
    status = 502
    code = "upstream_error"


class UpstreamSaid(UpstreamError):
    """The upstream answered with an error of its own: its status and code are kept."""

    code = "upstream_failed"

    def __init__(self, message: str, *, status: int, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or self.code


class ConnectFailed(UpstreamError):
    """No connection: DNS, TCP or TLS failed. Nothing was sent."""

    code = "upstream_connect_failed"
    retryable = True


class ConnectTimeout(ConnectFailed):
    status = 504
    code = "upstream_connect_timeout"


class PoolExhausted(UpstreamError):
    """No connection had a free stream before the deadline. Nothing was sent."""

    status = 503
    code = "pool_exhausted"
    retryable = True


class Refused(UpstreamError):
    """The upstream proves that it did not process the request.

    REFUSED_STREAM, a stream id above GOAWAY's last, or a request never written
    (RFC 9113 §6.8, §8.7).
    """

    code = "upstream_refused"
    retryable = True


class UpstreamReset(UpstreamError):
    """The stream was reset, or the connection closed, before the answer's end."""

    code = "upstream_reset"


class UpstreamDead(UpstreamReset):
    """The peer stopped answering PING."""

    code = "upstream_dead"


class UpstreamProtocolError(UpstreamError):
    """The upstream broke HTTP."""

    code = "upstream_protocol_error"


class HeadersTimeout(UpstreamError):
    status = 504
    code = "headers_timeout"


class FirstTokenTimeout(UpstreamError):
    status = 504
    code = "first_token_timeout"


class IdleTimeout(UpstreamError):
    status = 504
    code = "idle_timeout"


class TotalTimeout(UpstreamError):
    status = 504
    code = "total_timeout"


class StreamCut(UpstreamError):
    """The stream ended without its dialect's end event."""

    code = "upstream_cut"


class EmptyStream(StreamCut):
    """A 200 that carried no event at all."""

    code = "upstream_empty"


class GluedStream(StreamCut):
    """A second generation began inside the first one's stream."""

    code = "upstream_glued"


class NotAStream(UpstreamError):
    """A stream was asked for and something else came with status 200."""

    code = "upstream_not_a_stream"


class EventTooLarge(UpstreamError):
    """One SSE event grew over the limit without an end."""

    code = "upstream_event_too_large"


class AnswerTooLarge(UpstreamError):
    """A non-streaming answer grew over the limit."""

    code = "upstream_answer_too_large"


# --- the proxy's own ---------------------------------------------------------------------------


class InternalError(ProxyError):
    """A defect of ours; the log has the trace, the client does not."""


class AccessUnknown(ProxyError):
    """Who asks cannot be told: the keys are not known, or the look at one failed."""

    status = 503
    code = "access_unknown"


class MemoryUnavailable(ProxyError):
    """What is remembered could not be deleted: its store is away, or fails."""

    status = 503
    code = "memory_unavailable"


class TryLater(ProxyError):
    """Not now, but after a known wait."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which it is worth to ask again."""


class TooBusy(TryLater):
    """The key's in-flight limit is reached and the wait for a place would be too long."""

    status = 429
    code = "admission_refused"
    type = "rate_limit_error"


class LimitReached(TryLater):
    """The caller, or all callers together, may not use more for now."""

    status = 429
    code = "limit_reached"
    type = "rate_limit_error"


class TooManyChats(ClientError):
    """No more fit on one WebSocket before one of its chats is over."""

    status = 429
    code = "too_many_chats"
    type = "rate_limit_error"


class NoCandidate(TryLater):
    """Every candidate has failed repeatedly a moment ago; none is asked before it had a rest."""

    status = 503
    code = "no_candidate"


class Crowded(ProxyError):
    """There are too many connections, or too many bytes of bodies, for one more."""

    status = 503
    code = "proxy_crowded"


class Draining(ProxyError):
    """The proxy is stopping and the time given to streams is over."""

    status = 503
    code = "proxy_draining"
