"""After the fact: metrics, the access log, and our own warnings. Knows no sockets."""
