"""The Grafana dashboards: `source` says what is on them, `build` writes them as JSON."""
