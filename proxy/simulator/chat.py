"""Chat requests: checked, admitted, scripted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from random import Random

from proxy.simulator.admission import Admission, PrefixCache, check_user_agent, key_of
from proxy.simulator.call import Call
from proxy.simulator.checks import Fields
from proxy.simulator.dialects import ANTHROPIC, Dialect
from proxy.simulator.distributions import Fixed
from proxy.simulator.faults import Fault
from proxy.simulator.frames import Step
from proxy.simulator.identity import Asked, another
from proxy.simulator.ledger import Entry
from proxy.simulator.line import Line
from proxy.simulator.models import LONG_CONTEXT
from proxy.simulator.profiles import PROFILES, Behaviour
from proxy.simulator.refusals import Refusal
from proxy.simulator.reply import Reply, streamed, whole
from proxy.simulator.script import write_script
from proxy.simulator.settings import SimulatorSettings


class Chat:
    """The models: how long they take, who is running, which prompts they have read before."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        self._profile = PROFILES[settings.profile]
        own = settings.in_flight
        self._admission = Admission(self._profile.in_flight if own is None else own)
        self._cache = PrefixCache()
        self._lines: dict[tuple[str, str], Line] = {}
        """The lines of long prompts, by account and model: every account meets the same others,
        so that ways which are measured side by side do not lengthen each other's."""

    def use(self, profile: str) -> None:
        """From now on the times of this profile; limits stay. Raises KeyError."""
        self._profile = PROFILES[profile]

    def connected_at(self, entry: Entry) -> float:
        """When the connection could have carried its first request over the profile's distance."""
        if not entry.connection.tls:
            return 0.0
        return entry.connection.opened + self._profile.connect * self._settings.time_scale

    def reply(
        self, dialect: Dialect, asked: Asked, fields: Fields, fault: Fault, running: ExitStack
    ) -> Reply:
        """The answer; raises `Refusal`. An admitted call holds its place in `running`."""
        if asked.entry.method != "POST":
            raise Refusal("1222", "chat is asked for with POST", status=405)
        check_user_agent(asked.entry)
        account = key_of(asked.entry, anthropic=dialect is ANTHROPIC)
        call = dialect.read(fields)
        running.enter_context(self._admission.running(account, call))
        cached = self._cache.cached_tokens(account, call)
        behaviour = self._behaviour(call)
        in_line = self._in_line(account, call, behaviour)
        script = write_script(call, behaviour, fault, cached, asked.random, in_line)
        if not call.stream:
            body = dialect.answer(asked.identity, call.model.name, script)
            return whole(body, at=script.ended_at, packed=takes_gzip(asked))

        def again(later: float) -> Iterator[Step]:
            return dialect.stream(another(asked.identity, later), call, script, fault)

        steps = dialect.stream(asked.identity, call, script, fault)
        reply = streamed(steps, head_at=script.head_at, kind=dialect.event_stream)
        reply.error = dialect.error_event(Refusal(fault.code or "1234"), asked.identity.id)
        reply.again = again
        return reply

    def refusal_takes(self, asked: Asked) -> float:
        """Seconds until an error is answered: the way there and back."""
        return self._profile.behaviours[-1][1].network.draw(asked.random)

    def _in_line(self, account: str, call: Call, behaviour: Behaviour) -> float | None:
        """What a long prompt waits where these have a line of their own."""
        if behaviour.long_line is None or call.prompt_tokens <= LONG_CONTEXT:
            return None
        place = (account, call.model.name)
        if place not in self._lines:
            own = Random(f"{self._settings.seed}/line/{call.model.name}")
            self._lines[place] = Line(behaviour.long_line, own)
        return self._lines[place].join(time.monotonic() / (self._settings.time_scale or 1.0))

    def _behaviour(self, call: Call) -> Behaviour:
        """The profile's, with the pace and length that the settings put in its place."""
        behaviour = self._profile.behaviour(call.model.name)
        gap, tokens = self._settings.gap, self._settings.tokens
        if gap is not None:
            behaviour = replace(behaviour, gap=Fixed(gap))
        if tokens is not None:
            behaviour = replace(behaviour, answer=Fixed(tokens), brief_answer=Fixed(tokens))
        return behaviour


def takes_gzip(asked: Asked) -> bool:
    """The client offers gzip."""
    return "gzip" in (asked.entry.header("accept-encoding") or "")
