"""Settings files of deploy/, made loadable: with files where their secrets are to be."""

from __future__ import annotations

import re
from pathlib import Path

_SECRET = re.compile(r"file:(/(?:run|etc)/[\w./-]+)")


def loadable(path: Path, folder: Path) -> Path:
    """A copy of the settings in `folder` whose secrets are files of `folder`/secrets."""
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)

    def put(found: re.Match[str]) -> str:
        own = secrets / Path(found[1]).name
        own.write_text(f"a-secret-of-this-test-{own.name}", "utf-8")
        own.chmod(0o640)
        return f"file:{own}"

    copy = folder / path.name
    copy.write_text(_SECRET.sub(put, path.read_text("utf-8")), "utf-8")
    return copy
