"""Chat requests: checked, admitted, scripted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from proxy.simulator.admission import Admission, PrefixCache, check_user_agent, key_of
from proxy.simulator.call import Call
from proxy.simulator.checks import Fields
from proxy.simulator.dialects import ANTHROPIC, Dialect
from proxy.simulator.distributions import Fixed
from proxy.simulator.faults import Fault
from proxy.simulator.frames import Step
from proxy.simulator.identity import Asked, another
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
        unlimited = settings.in_flight is None and not self._profile.limits
        self._admission = Admission(0 if unlimited else settings.in_flight)
        self._cache = PrefixCache()

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
        cached = self._cache.cached_tokens(call)
        script = write_script(call, self._behaviour(call), fault, cached, asked.random)
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
