"""What is on each dashboard, and the few words it is said in.

promql      queries: selectors that follow the variables, rates, shares, percentiles
panels      the kinds of panel
dashboard   rows, layout, variables, links, annotations: the JSON that Grafana reads
overview, upstream, streams, process   one dashboard each
"""
