"""What a store's owner is told of it: one line when it begins to fail, one when it works again."""

from __future__ import annotations

import logging

log = logging.getLogger("glm_proxy.memory")


class Fortune:
    """Of one store."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failing = False

    def failed(self, reason: str) -> None:
        """`reason` has neither secrets nor memories."""
        if not self._failing:
            self._failing = True
            log.warning("memory: %s; requests go on without it", reason)

    def worked(self) -> None:
        if self._failing:
            self._failing = False
            log.warning("memory: %s works again", self._name)
