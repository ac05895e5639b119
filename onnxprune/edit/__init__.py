"""Changes a model in place: slices constants, resizes nodes, reorders channels."""
