"""The plan of a run as data."""
