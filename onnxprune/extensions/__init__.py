"""What can be added from outside, and the registries that hold it."""
