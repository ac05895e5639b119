"""What a model costs: measured, and as a function of what is removed."""
