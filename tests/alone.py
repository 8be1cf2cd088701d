"""Which tests measure time, or need the machine for themselves: none runs beside another one.

`make test-two` runs the others on two processors at once, and then these one after the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parent
ALONE: Final = (
    "bench/*.py",
    "core/test_sse.py",
    "deploy/test_container.py",
    "deploy/test_fronts*.py",
    "memory/**/*.py",
    "net/test_dial*.py",
    "net/test_h2_silence.py",
    "net/test_http1_*.py",
    "net/test_pool_trouble.py",
    "net/test_race.py",
    "net/test_siblings.py",
    "net/test_waiting.py",
    "net/test_watchdog.py",
    "observe/test_exchanges.py",
    "observe/test_process.py",
    "observe/test_stuck_reader.py",
    "observe/test_window.py",
    "proof/test_proof.py",
    "sdk/test_limits.py",
    "simulator/test_api.py",
    "simulator/test_behaviour.py",
    "state/test_learning.py",
    "state/test_redis_away.py",
    "state/test_replicas.py",
    "state/test_shares.py",
    "state/test_sqlite.py",
    "store/**/*.py",
    "test_attacks.py",
    "test_bench.py",
    "test_cache*.py",
    "test_chats_on_a_socket.py",
    "test_codes.py",
    "test_commit.py",
    "test_demo.py",
    "test_endpoints.py",
    "test_failing.py",
    "test_fair_share.py",
    "test_hedges.py",
    "test_held_on_sockets.py",
    "test_hostile*.py",
    "test_http1_endpoints.py",
    "test_leaving.py",
    "test_limits.py",
    "test_memory.py",
    "test_on_disconnect.py",
    "test_races.py",
    "test_realtime.py",
    "test_reload*.py",
    "test_resuming*.py",
    "test_sharing.py",
    "test_suites.py",
    "test_timers.py",
    "test_timings.py",
    "test_tracing.py",
    "test_workers_metrics.py",
    "workers/*.py",
)
"""Below `tests/`."""


def files() -> frozenset[Path]:
    """Those that are meant."""
    return frozenset(path for pattern in ALONE for path in TESTS.glob(pattern))
