"""`python -m tests.proof`: every query of every dashboard and rule, asked of a real Prometheus.

It starts a simulated upstream, two proxies and a Prometheus that scrapes them, sends thousands of
exchanges with every fault the simulator knows, and then asks whether the numbers that Prometheus
tells are those that the load client saw.

faults.py plan.py       what is sent: routes, faults, clients that leave (pure)
reading.py client.py    the load client: an SSE reader and a clock of its own
settings.py upstream.py stage.py   the processes, their settings, how they start and stop
queries.py promql.py    every query in the dashboards and rules, filled in, taken apart (pure)
prometheus.py judge.py  asking them, and what counts as an answer
agreement.py figures.py the client's view against Prometheus', figure by figure
report.py               Markdown and JSON
draw.py draw_*.py svg.py the dashboards as pictures, from the same answers
run.py __main__.py      all of it in order
"""
