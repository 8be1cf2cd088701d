"""Sockets and tasks. What to do is decided in `proxy.core`; here it is done."""
