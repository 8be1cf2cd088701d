"""A GLM on this machine: HTTP/1.1, and TLS with HTTP/2, with seeded latencies and faults.

    async with Simulator(SimulatorSettings(profile="instant")) as sim:
        sim.inject(Fault(cut_at_event=3))
        ...  # talk to sim.http_url or sim.https_url, trusting sim.ca_file
        await sim.ledger.until(lambda ledger: not ledger.open)

From the outside in: `server` opens the listeners; `entrance` picks `http1` or `http2`; `glm`
decides one reply, `chat` for the models and `others` for the rest; `script` says what an answer
says and when, out of a `profiles` entry; `frames` and `anthropic` give its bytes; `shape` applies
a fault; `play` sends it and marks the `ledger`.
"""

from proxy.simulator.fault_queue import FaultRule, parse_rule
from proxy.simulator.faults import Ending, Fault
from proxy.simulator.ledger import Connection, Entry, Ledger
from proxy.simulator.profiles import PROFILES
from proxy.simulator.server import CannotListen, MissingExtra, Simulator
from proxy.simulator.settings import SimulatorSettings

__all__ = [
    "PROFILES",
    "CannotListen",
    "Connection",
    "Ending",
    "Entry",
    "Fault",
    "FaultRule",
    "Ledger",
    "MissingExtra",
    "Simulator",
    "SimulatorSettings",
    "parse_rule",
]
