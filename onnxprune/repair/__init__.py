"""What makes a pruned model good again without training."""
