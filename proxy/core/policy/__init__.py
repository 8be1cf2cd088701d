"""What to do: decisions, each over one snapshot, each a plain function."""
