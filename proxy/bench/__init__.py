"""The load client of `glm-proxy bench`: what a caller sees, stage by stage, direct and proxied.

plan.py     what is asked of whom
measure.py  one request, timed
run.py      all of them, the two ways interleaved
figures.py  percentiles, ratios, goals: from samples to numbers
report.py   numbers to Markdown and JSON
"""
