"""What is on each dashboard, and the few words it is said in.

promql      queries: selectors that follow the variables, rates, shares, percentiles
slo         the objective's: the share that is kept, how fast its budget goes
sides       whose time a stage is, whose fault an outcome
panels      the kinds of panel
dashboard   rows, layout, variables, links, annotations: the JSON that Grafana reads
overview, upstream, streams, conversations, process
            one dashboard each; connections is a part of upstream
"""
