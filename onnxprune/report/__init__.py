"""Reports of a run, as data and as tables."""
