"""`make deploy-check` and `make release-check`: what is in deploy/ and what ships, looked at by the
programs that will read it.

A check either says in a sentence what it found, raises `Failed`, or raises `Missing` for a program
that is not here. What nothing here can look at is named at the end.
"""
