"""`glm-proxy bench --suite`: starts a simulated service and proxies, measures, ends them.

upstream.py   the simulated service, a process of its own that can be told to be slow or gone
stage.py      the processes of a suite, their settings and their logs
machine.py    how busy the machine was
lumosai.py tail.py   what each suite does, in order
"""
