"""Repairs a pruned model without training."""
