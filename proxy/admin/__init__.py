"""The operator's listener: health and metrics, on a port that clients do not reach."""
