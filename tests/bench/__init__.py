"""The macro benchmark: glm-proxy beside nginx and haproxy, in one interleaved run (`make bench`).

mock.c, load.c   the measuring side, in C, so that it costs little
machine.py       cores, CPU time, memory, versions: what is read from /proc
peers.py         every process of a run, its settings written at run time
scenes.py        what is measured, one call per round
report.py        medians, ratios to nginx, the bars, one Markdown table
"""
