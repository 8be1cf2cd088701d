"""What other machines would reach without being asked who they are.

The sockets may have come from elsewhere (systemd, the process before), so what they are bound to
counts here, and not the hosts in the settings.
"""

from __future__ import annotations

from collections.abc import Iterator

from proxy.config.models import Config
from proxy.config.origin import is_loopback
from proxy.config.problems import Problem


def exposed(config: Config, data_host: str, admin_host: str) -> Iterator[Problem]:
    """Each listener that is open to more than the settings say. Hosts are IP addresses."""
    if config.access == "open" and not is_loopback(data_host):
        yield Problem(
            "access",
            f"the data listener is bound to {data_host}, which is not a loopback address: whoever"
            " reaches it could use this proxy. Set access: keys, or bind it to 127.0.0.1",
        )
    if config.admin.token is None and not is_loopback(admin_host):
        yield Problem(
            "admin.token",
            f"the admin listener is bound to {admin_host}, which is not a loopback address: set a"
            " token, or bind it to 127.0.0.1",
        )
