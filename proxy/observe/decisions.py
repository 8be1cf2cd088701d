"""What was decided about an exchange, as metrics: its choice, changes, retries, hedges, and cost.

A plain exchange (one attempt, nothing changed) pays for its choice and its prediction alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry

from proxy.core.record import AttemptRecord, Record
from proxy.errors import TooBusy
from proxy.observe import buckets, labels
from proxy.observe.labels import LabelNames, Labels, known
from proxy.observe.series import Counters, Group, Histograms


class Decisions:
    """Metrics of decisions. `finish` is called once for each finished exchange."""

    def __init__(self, registry: CollectorRegistry, names: LabelNames) -> None:
        self.names = names
        self._codes = labels.GLM_CODES | labels.STATUSES | labels.outcomes()
        self._choice = _Choice(registry)
        self._repeats = _Repeats(registry)
        self._lost = _Lost(registry)

    def finish(self, record: Record, of: Labels) -> None:
        """`of`: the exchange's own label values."""
        attempts = record.attempts
        if record.reason is not None:
            self._choice.choices.add((of.route, known(record.reason, labels.REASONS)))
        for change in record.changes:
            field = known(change.partition("=")[0], labels.CHANGES)
            self._choice.rewrites.add((of.route, field))
        if record.predicted is not None and attempts:
            self._prediction(record, of, record.predicted)
        if record.shared:
            self._choice.shared.add((of.route,))
        if record.decisions:
            self._decided(record, of)
        if len(attempts) > 1:
            self._others(attempts, of)
        if record.outcome == TooBusy.code:
            self._repeats.refused.add((of.route, of.endpoint))
        for attempt in attempts:
            if attempt.waited > 0:
                self._repeats.wait.observe(self._where(attempt), attempt.waited)
            if not attempt.won and attempt.sent is not None and of.kind == "chat":
                self._lose(attempt)

    def _prediction(self, record: Record, of: Labels, predicted: float) -> None:
        if predicted <= 0:
            return
        endpoint, model = self._where(record.attempts[0])
        self._choice.predicted.observe((of.route, model, endpoint), predicted)
        came = _came(record.attempts[0], predicted, stream=record.stream)
        if came is not None:
            self._choice.prediction.observe((of.route, model, endpoint), came / predicted)

    def _decided(self, record: Record, of: Labels) -> None:
        for decision in record.decisions:
            if decision.startswith("hedge_"):
                result = known(decision.removeprefix("hedge_"), labels.HEDGES)
                self._repeats.hedges.add((of.route, result))
        for decision, code, failed in _retries(record):
            endpoint = None if failed is None else failed.endpoint
            key = (
                known(endpoint, self.names.endpoints),
                known(code, self._codes),
                known(decision, labels.RETRIES),
            )
            self._repeats.retries.add(key)

    def _others(self, attempts: tuple[AttemptRecord, ...], of: Labels) -> None:
        before, hedged = attempts[0], False
        for attempt in attempts:
            if attempt.role == "hedge":
                hedged = True
                self._repeats.hedges.add((of.route, "won" if attempt.won else "lost"))
            elif attempt.role == "failover":
                start, end = self._where(before)[0], self._where(attempt)[0]
                self._repeats.failovers.add((of.route, start, end))
            before = attempt
        if hedged:
            self._hedged(attempts, of)

    def _hedged(self, attempts: tuple[AttemptRecord, ...], of: Labels) -> None:
        """What it cost to have asked twice: all that was asked but for the answer in use."""
        for attempt in attempts:
            if not attempt.won and attempt.sent is not None:
                where = (of.route, known(attempt.endpoint, self.names.endpoints))
                self._lost.hedge_attempts.add(where)
                if attempt.usage is not None:
                    for kind, count in labels.token_counts(attempt.usage):
                        if count is not None:
                            self._lost.hedge_tokens.add((kind, *where), count)

    def _lose(self, attempt: AttemptRecord) -> None:
        endpoint = known(attempt.endpoint, self.names.endpoints)
        self._lost.attempts.add((endpoint, known(attempt.role, labels.ROLES)))
        if attempt.usage is not None:
            for kind, count in labels.token_counts(attempt.usage):
                if count is not None:
                    self._lost.tokens.add((kind, endpoint), count)

    def _where(self, attempt: AttemptRecord) -> tuple[str, str]:
        names = self.names
        return known(attempt.endpoint, names.endpoints), known(attempt.model, names.models)


def _came(first: AttemptRecord, predicted: float, *, stream: bool) -> float | None:
    """Seconds after which the first attempt had first content, its wait for admission included.

    An attempt that was given up later than predicted was late, by how much is not known: it
    counts with the time that it had. One that was given up before says nothing.
    """
    begun = first.started - first.waited
    if first.first_content is not None:
        return first.first_content - begun
    given_up = first.ended - begun
    return given_up if stream and not first.won and given_up > predicted else None


def _retries(record: Record) -> Iterator[tuple[str, str, AttemptRecord | None]]:
    """Each decision about a failure, its code, and the attempt that failed so."""
    left = list(record.attempts)
    for entry in record.decisions:
        if entry.startswith("retry_"):
            decision, _, code = entry.removeprefix("retry_").partition(":")
            yield decision, code, _take_failed(left, code)


def _take_failed(left: list[AttemptRecord], code: str) -> AttemptRecord | None:
    """The first that ended with `code`, out of those that no decision was about yet.

    Attempts are in the order of their starts, and hedged ones may fail in another. One whose
    record has another word for its end is the first that brought nothing.
    """
    found = next((one for one in left if code in _ends(one)), None)
    if found is None and left:
        found = next((one for one in left if not one.won), left[0])
    if found is not None:
        left.remove(found)
    return found


def _ends(attempt: AttemptRecord) -> tuple[str | None, ...]:
    return attempt.upstream_code, attempt.outcome, f"status_{attempt.status}"


class _Choice(Group):
    """What a route chose and changed, and whether what it expected came true."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.choices = Counters(
            registry,
            "glm_proxy_choices_total",
            "Choices of the first candidate, by reason: only (nothing else may be asked), order"
            " (no target is set), preferred (it should meet the target), fastest (none should),"
            " nearest, sticky (of the near ones it had the conversation before), explore (too"
            " little is known of it), rule or default (it has one candidate), switch (the operator"
            " switched the model).",
            ("route", "reason"),
        )
        self.rewrites = Counters(
            registry,
            "glm_proxy_rewrites_total",
            "Requests in which a route changed a field, by field; one that was taken away has a"
            " minus in front.",
            ("route", "change"),
        )
        self.predicted = Histograms(
            registry,
            "glm_proxy_predicted_first_content_seconds",
            "Seconds to first content that were expected of the candidate chosen first, with the"
            " wait for admission.",
            ("route", "served_model", "endpoint"),
            buckets.FIRST_TOKEN,
        )
        self.prediction = Histograms(
            registry,
            "glm_proxy_prediction_ratio",
            "First content of the candidate chosen first: actual seconds over the predicted ones,"
            " both with the wait for admission. Below 1 it came sooner; the share up to 1 is the"
            " confidence that was kept. One given up when later than predicted counts with the"
            " time it had.",
            ("route", "served_model", "endpoint"),
            buckets.PREDICTION,
        )
        self.shared = Counters(
            registry,
            "glm_proxy_shared_answers_total",
            "Exchanges that read the answer to an identical request in flight.",
            ("route",),
        )


class _Repeats(Group):
    """Attempts after and beside the first, and the wait for a place."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.hedges = Counters(
            registry,
            "glm_proxy_hedges_total",
            "Second attempts beside a late one: started, how they ended (won, or lost for any"
            " reason), and denied ones by reason (denied_budget, denied_admission, denied_errors,"
            " denied_slow).",
            ("route", "result"),
        )
        self.retries = Counters(
            registry,
            "glm_proxy_retries_total",
            "Decisions about failed attempts, by the upstream's or our own code of the failure and"
            " what followed: key (another key), limit (back into admission's queue), overload and"
            " again (another candidate, or the same after a pause), elsewhere (another candidate"
            " only), denied_budget, denied_count.",
            ("endpoint", "code", "decision"),
        )
        self.failovers = Counters(
            registry,
            "glm_proxy_failovers_total",
            "Attempts at the next candidate after one had failed, from its endpoint to theirs.",
            ("route", "from_endpoint", "to_endpoint"),
        )
        self.wait = Histograms(
            registry,
            "glm_proxy_admission_wait_seconds",
            "Seconds that an attempt waited for a free place of its key, of those that waited.",
            ("endpoint", "served_model"),
            buckets.STAGE,
        )
        self.refused = Counters(
            registry,
            "glm_proxy_admission_refused_total",
            "Exchanges refused because the wait for a place was, or would have been, too long.",
            ("route", "endpoint"),
        )


class _Lost(Group):
    """What was asked of an upstream and read by nobody."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counters(
            registry,
            "glm_proxy_lost_attempts_total",
            "Chat attempts that were sent and whose answer no client got: failed ones, hedged"
            " ones that lost, and those whose client left before an answer.",
            ("endpoint", "role"),
        )
        self.tokens = Counters(
            registry,
            "glm_proxy_lost_tokens_total",
            "Tokens of lost attempts, as far as the upstream counted them; not part of"
            " glm_proxy_tokens_total.",
            ("type", "endpoint"),
        )
        self.hedge_attempts = Counters(
            registry,
            "glm_proxy_hedge_extra_attempts_total",
            "Attempts of hedged exchanges that were sent and whose answer nobody got, whichever of"
            " them was the hedge; part of glm_proxy_lost_attempts_total.",
            ("route", "endpoint"),
        )
        self.hedge_tokens = Counters(
            registry,
            "glm_proxy_hedge_extra_tokens_total",
            "Tokens of the extra attempts of hedged exchanges, as far as the upstream counted them;"
            " part of glm_proxy_lost_tokens_total.",
            ("type", "route", "endpoint"),
        )
