"""Every setting: its name, unit, default and check; `load` reads them, nothing changes them after.

models      the settings themselves: look here first; then routes, conversation, attempts, params,
            limits, state, observing
load        file, environment and command line -> `Config`, or a `ConfigError` with all problems
effective   the settings in effect as text, secrets masked
fixed       what needs a restart to change
yaml_file   YAML with the line of every key
problems    what is wrong, in words
unused      what has no effect, in words
exposed     what would be open to other machines
units, secret, origin, types   how single values are read and checked
"""

from __future__ import annotations

from proxy.config.attempts import Admission, Attempts, Breaker, Hedge
from proxy.config.conversation import (
    AnswerStore,
    Cache,
    Keeping,
    Memory,
    MemoryStore,
    OnDisconnect,
    Responses,
    WebSocketLimits,
)
from proxy.config.effective import digest, effective
from proxy.config.exposed import exposed
from proxy.config.fixed import CannotReload, unchangeable
from proxy.config.limits import Allowance, Limits
from proxy.config.load import bundled, load
from proxy.config.models import (
    Admin,
    Config,
    Endpoint,
    PoolSettings,
    Server,
)
from proxy.config.observing import Log, Metrics, Tracing
from proxy.config.params import UNTOUCHABLE, Cap, Params
from proxy.config.problems import ConfigError, Problem
from proxy.config.routes import (
    Candidate,
    Match,
    RouteRule,
    StreamSettings,
    Timeouts,
)
from proxy.config.secret import Secret
from proxy.config.state import State

__all__ = [
    "UNTOUCHABLE",
    "Admin",
    "Admission",
    "Allowance",
    "AnswerStore",
    "Attempts",
    "Breaker",
    "Cache",
    "Candidate",
    "CannotReload",
    "Cap",
    "Config",
    "ConfigError",
    "Endpoint",
    "Hedge",
    "Keeping",
    "Limits",
    "Log",
    "Match",
    "Memory",
    "MemoryStore",
    "Metrics",
    "OnDisconnect",
    "Params",
    "PoolSettings",
    "Problem",
    "Responses",
    "RouteRule",
    "Secret",
    "Server",
    "State",
    "StreamSettings",
    "Timeouts",
    "Tracing",
    "WebSocketLimits",
    "bundled",
    "digest",
    "effective",
    "exposed",
    "load",
    "unchangeable",
]
