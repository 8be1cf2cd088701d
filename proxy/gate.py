"""Who is let in, and to what: decided on the key and the matched target, before a body is read.

With `access: open` whoever reaches the listener may use it, and callers are only told apart. With
`access: keys` a caller is a virtual key, or is refused: also where the keys are not known, and
where looking at one fails. The keys are those that the home of state told last, so one that is
revoked is refused from the next request on; what runs goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from proxy.config import Config
from proxy.core.policy import access
from proxy.core.policy.access import Caller, Denied, Known, VirtualKey
from proxy.core.wire.target import Target
from proxy.errors import AccessUnknown, Forbidden, Unauthorized


class Gate:
    """Asked by every exchange. What it cannot tell it refuses."""

    def __init__(
        self,
        config: Config,
        *,
        fingerprint: Callable[[str], str],
        wall: Callable[[], float],
        broke: Callable[[], None],
    ) -> None:
        """`fingerprint` tells the keys of callers apart without telling them; `wall` is unix time
        in seconds; `broke` is called inside the `except`, when a defect of ours refuses a caller.
        """
        self._is_open = config.access == "open"
        self._fingerprint = fingerprint
        self._wall = wall
        self._broke = broke
        self._keys: Mapping[str, VirtualKey] | None = None

    def know(self, keys: Mapping[str, VirtualKey] | None) -> None:
        """The keys there are from now on, by id. None, as before the first: they are not known."""
        self._keys = keys

    @property
    def keys(self) -> Mapping[str, VirtualKey] | None:
        """The keys there are, by id; None: nobody can tell."""
        return self._keys

    def identify(self, key: str | None, peer: str) -> Caller:
        """Who asks: by the key that was shown, and the address.

        Raises Unauthorized, and AccessUnknown where that cannot be told.
        """
        if self._is_open:
            if key is None:
                return Caller(peer)
            fingerprint = self._fingerprint(key)
            return Caller(fingerprint, fingerprint)
        if self._keys is None:
            raise AccessUnknown("the keys are not known at the moment; try again")
        try:
            found = self._recognised(key, self._keys)
        except Exception:  # a defect, or a damaged key: nobody is let in by it
            self._broke()
            raise AccessUnknown("this key cannot be looked at now; the log says why") from None
        if isinstance(found, Caller):
            return found
        raise Unauthorized(found.reason)

    def _recognised(self, key: str | None, keys: Mapping[str, VirtualKey]) -> Caller | Denied:
        match access.identify(key, keys, self._wall()):
            case Known(known):
                return Caller(known.id, known.label, known)
            case denied:
                return denied

    def permit(self, caller: Caller, target: Target, route: str, model: str | None) -> None:
        """Whether the caller may use this; `model` is the one that is asked for, None where the
        body is not read. Raises Forbidden, and AccessUnknown where that cannot be told."""
        if not self._may_use(caller, route, model):
            what = f"the model {model!a}" if model is not None else target.pattern
            raise Forbidden(f"this key is not for {what} (route {route})")

    def listed(
        self, caller: Caller, models: Iterable[str], route_of: Callable[[str], str]
    ) -> list[str]:
        """Those of `models` that the caller may ask for. Raises AccessUnknown."""
        if self._is_open:
            return list(models)
        return [model for model in models if self._may_use(caller, route_of(model), model)]

    def _may_use(self, caller: Caller, route: str, model: str | None) -> bool:
        if self._is_open:
            return True
        try:
            return caller.key is not None and access.may_use(caller.key, route, model)
        except Exception:  # as above
            self._broke()
            raise AccessUnknown("this key cannot be looked at now; the log says why") from None
