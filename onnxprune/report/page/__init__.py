"""A report as one self-contained page: nothing is loaded from anywhere, and it opens from disk."""
