"""How many channels each group loses: ratios, budgets, searches."""
