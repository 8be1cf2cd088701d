"""The folder in which workers share their figures when the settings name none: gone with them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from proxy.config import Config
from proxy.observe.folder import CannotShare


class RunFolder:
    """One folder for all workers, and for those of the successors."""

    def __init__(self, path: Path, *, ours: bool) -> None:
        self.path = path
        self.is_ours = ours
        """Whether it is removed with us. That of another master becomes ours when it is to go."""

    @classmethod
    def make(cls, parent: Path | None) -> RunFolder:
        """Below `parent`, or below the system's folder for such. Raises CannotShare."""
        try:
            return cls(Path(tempfile.mkdtemp(prefix="glm-proxy-", dir=parent)), ours=True)
        except OSError as error:
            where = parent or Path(tempfile.gettempdir())
            raise CannotShare(
                where, f"takes no folder ({error.strerror}); set metrics.folder to one that does"
            ) from None

    def used_by(self, config: Config) -> Config:
        """The same settings, with this folder."""
        metrics = config.metrics.model_copy(update={"folder": self.path})
        return config.model_copy(update={"metrics": metrics})

    def remove(self) -> None:
        if self.is_ours:
            shutil.rmtree(self.path, ignore_errors=True)
