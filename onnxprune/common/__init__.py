"""What every package may use: text, numbers, imports by name, the time of a run and how far it is."""
