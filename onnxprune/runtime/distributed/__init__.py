"""Tasks on many machines, by Dask: an optional dependency that is imported when it is asked for."""
