"""W3C Trace Context: what is believed, what begins anew, what is told upstream.

Whatever a caller sends, what goes on is one valid traceparent; and a caller's trace is continued
exactly when its header is what the specification says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.record import SpanIds
from proxy.core.wire.headers import to_upstream
from proxy.core.wire.trace import Caller, Tracer, read

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"
VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]")


def numbered() -> Callable[[int], str]:
    """Ids that are told from each other."""
    numbers = count(1)
    return lambda size: f"{next(numbers):0{2 * size}x}"


def a_tracer(share: float = 1.0, roll: float = 0.5) -> Tracer:
    return Tracer(share, lambda: roll, numbered())


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "empty"),
        ("00", "cut"),
        (f"00-{TRACE}-{SPAN}", "without flags"),
        (f"00-{TRACE}-{SPAN}-1", "half the flags"),
        (f"00-{TRACE}-{SPAN}-01-", "version 00 has no fifth field"),
        (f"00-{TRACE}-{SPAN}-01-00", "version 00 has no fifth field"),
        (f"00-{TRACE}-{SPAN}-01.", "something after it"),
        (f"cc-{TRACE}-{SPAN}-01.what", "of a later version too"),
        (f"ff-{TRACE}-{SPAN}-01", "ff is no version"),
        (f"0-{TRACE}-{SPAN}-01", "half a version"),
        (f"0x-{TRACE}-{SPAN}-01", "no hex"),
        (f"00-{'0' * 32}-{SPAN}-01", "no trace"),
        (f"00-{TRACE}-{'0' * 16}-01", "no span"),
        (f"00-{TRACE.upper()}-{SPAN}-01", "upper case"),
        (f"00-{TRACE}-{SPAN.upper()}-01", "upper case"),
        (f"00-{TRACE}-{SPAN}-0A", "upper case"),
        (f"00-{TRACE[1:]}-{SPAN}-01", "short"),
        (f"00-{TRACE}a-{SPAN}-01", "long"),
        (f"00_{TRACE}_{SPAN}_01", "other separators"),
        (f"{GOOD},{GOOD}", "two in one"),
        (f"{GOOD}\n", "a line end"),
        (f"00-{TRACE[:-1]}\u0665-{SPAN}-01", "a digit of another script"),
    ],
)
def test_what_is_not_exactly_a_traceparent_is_none(value: str, why: str) -> None:
    assert read([("traceparent", value)]) is None, why


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (GOOD, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f" \t{GOOD} ", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-00-what-comes", False),
    ],
)
def test_a_valid_traceparent_is_believed_also_of_a_later_version(value: str, sampled: bool) -> None:
    assert read([("TraceParent", value)]) == Caller(TRACE, SPAN, sampled, None)


def test_of_two_traceparents_none_is_believed_not_even_of_equal_ones() -> None:
    assert read([("traceparent", GOOD), ("Traceparent", GOOD)]) is None


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        (["a=1"], "a=1"),
        (["a=1, b=2\t,c=3"], "a=1,b=2,c=3"),
        (["a=1", "b=2"], "a=1,b=2"),
        (["a=1,,", " ", "b=2"], "a=1,b=2"),
        (["0tenant@system=x y"], "0tenant@system=x y"),
        (["a=" + "v" * 256], "a=" + "v" * 256),
        (["a=" + "v" * 257], None),
        (["k" * 256 + "=1"], "k" * 256 + "=1"),
        (["k" * 257 + "=1"], None),
        (["0a=1"], None),
        (["A=1"], None),
        (["a"], None),
        (["a="], None),
        (["a=1=2"], None),
        (["a=\x00"], None),
        (["a=\u00e9"], None),
        (["a=1,a=2"], None),
        (["a=1", "a=1"], None),
        (["a@=1"], None),
        ([""], None),
        ([",".join(f"k{number}=1" for number in range(32))], "32"),
        ([",".join(f"k{number}=1" for number in range(33))], None),
    ],
)
def test_a_tracestate_is_passed_on_whole_or_not_at_all(
    values: list[str], passed: str | None
) -> None:
    caller = read([("traceparent", GOOD), *(("tracestate", value) for value in values)])
    assert caller is not None
    assert caller.state == (values[0] if passed == "32" else passed)


def test_a_tracestate_without_a_trace_goes_nowhere() -> None:
    trace = a_tracer().begin([("tracestate", "a=1"), ("traceparent", "nonsense")])
    assert [name for name, _ in trace.headers(trace.child())] == ["traceparent"]


# --- a trace that is continued, and one that begins ----------------------------------------------


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_caller_decides_whether_its_trace_is_sampled(flags: str) -> None:
    tracer = a_tracer(share=1.0 if flags == "00" else 0.0)
    trace = tracer.begin([("traceparent", f"00-{TRACE}-{SPAN}-{flags}"), ("tracestate", "a=1")])
    assert trace.ids[:3] == (TRACE, "0000000000000001", SPAN)
    assert trace.ids.sampled == (flags == "01")
    attempt = trace.child()
    assert attempt == SpanIds(TRACE, "0000000000000002", trace.ids.span_id, trace.ids.sampled)
    assert trace.headers(attempt) == [
        ("traceparent", f"00-{TRACE}-0000000000000002-{flags}"),
        ("tracestate", "a=1"),
    ]


def test_each_attempt_is_another_span_below_the_same_one() -> None:
    trace = a_tracer().begin([])
    first, second = trace.child(), trace.child()
    assert first.span_id != second.span_id
    assert first.parent_id == second.parent_id == trace.ids.span_id
    assert trace.ids.parent_id is None


@pytest.mark.parametrize(
    ("share", "roll", "sampled"),
    [(0.0, 0.0, False), (1.0, 0.999, True), (0.1, 0.09, True), (0.1, 0.1, False)],
)
def test_a_share_of_the_traces_that_begin_here_is_sampled(
    share: float, roll: float, sampled: bool
) -> None:
    assert a_tracer(share, roll).begin([]).ids.sampled == sampled


# --- what goes up ---------------------------------------------------------------------------


def sent(headers: list[tuple[str, str]], trace: list[tuple[str, str]] | None) -> dict[str, str]:
    passed = to_upstream(
        headers, dialect="openai", api_key=None, chat=True, request_id="r", trace=trace
    )
    return {name: value for name, value in passed if name.startswith("trace")}


def test_with_tracing_off_the_callers_headers_pass_as_they_came() -> None:
    headers = [("Traceparent", "what ever"), ("tracestate", "A=1")]
    assert sent(headers, None) == {"traceparent": "what ever", "tracestate": "A=1"}


def test_an_attempts_own_context_replaces_the_callers_even_if_connection_names_it() -> None:
    headers = [("traceparent", GOOD), ("tracestate", "a=1"), ("connection", "traceparent")]
    assert sent(headers, [("traceparent", "ours")]) == {"traceparent": "ours"}


# --- anything -------------------------------------------------------------------------------

NAMES = st.sampled_from(["traceparent", "Traceparent", "TRACESTATE", "tracestate", "x"])
HEX = st.text("0123456789abcdefABCDEF", max_size=33)
NEARLY = st.builds(
    lambda parts, joint: joint.join(parts),
    st.tuples(
        st.one_of(st.just("00"), HEX),
        st.one_of(st.just(TRACE), HEX),
        st.one_of(st.just(SPAN), HEX),
        st.one_of(st.just("01"), HEX),
    ),
    st.sampled_from(["-", "-", "-", "_", ""]),
)
VALUES = st.one_of(st.text(max_size=80), NEARLY, st.just("a=1,b=2"))


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
@example([("traceparent", GOOD), ("tracestate", "a=1\r\nx: y")])
def test_whatever_is_sent_one_valid_traceparent_goes_on(headers: list[tuple[str, str]]) -> None:
    trace = a_tracer().begin(headers)
    told = trace.headers(trace.child())
    assert [name for name, _ in told] in (["traceparent"], ["traceparent", "tracestate"])
    assert VALID.fullmatch(told[0][1])
    for _, value in told:
        assert value.isascii()
        assert value.isprintable()
    parents = [value for name, value in headers if name.lower() == "traceparent"]
    continues = trace.ids.parent_id is not None
    assert continues == (len(parents) == 1 and is_traceparent(parents[0].strip(" \t")))


def is_traceparent(value: str) -> bool:
    """The specification once more, in other words."""
    fields = value.split("-")
    if [len(field) for field in fields[:4]] != [2, 32, 16, 2] or fields[0] == "ff":
        return False
    if len(fields) > 4 and fields[0] == "00":
        return False
    if any(not "!" <= char <= "~" for char in value):
        return False
    is_hex = all(set(field) <= set("0123456789abcdef") for field in fields[:4])
    return is_hex and set(fields[1]) != {"0"} and set(fields[2]) != {"0"}
