"""`python -m tests.deploy.check deploy` or `release`: every check, and a summary. Ends with 1 when
one failed."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.deploy.check import plan
from tests.deploy.check.bench import Check, Failed, Missing


def main(name: str) -> int:
    """Runs the checks of one plan. The exit code."""
    checks, beyond = plan.PLANS[name]
    failed, missing = [], []
    # Not below /tmp: a check hides that behind a folder of its own.
    with tempfile.TemporaryDirectory(prefix="glm-proxy-check-", dir="/var/tmp") as folder:
        for check in checks:
            begun = time.monotonic()
            try:
                found = check.run(_own(Path(folder), check))
            except Missing as error:
                missing.append(f"{check.what}: {error}")
                _say("--", check, str(error), begun)
            except Failed as error:
                failed.append(check)
                _say("NO", check, str(error), begun)
            else:
                _say("ok", check, found, begun)
    if missing or beyond:
        print("\nNot looked at here:")
        for line in [*missing, *beyond]:
            print(f"  {line}")
    print(f"\n{len(checks) - len(failed) - len(missing)} passed, {len(failed)} failed")
    return 1 if failed else 0


def _own(folder: Path, check: Check) -> Path:
    """A folder of the check's own; checks of one module share theirs, and what they made in it."""
    own = folder / check.run.__module__.rpartition(".")[2]
    own.mkdir(exist_ok=True)
    return own


def _say(mark: str, check: Check, found: str, begun: float) -> None:
    took = time.monotonic() - begun
    print(f"{mark}  {check.what} [{check.by}] {took:.1f} s\n      {found}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
