"""Importance of channels: criteria, damage curves, trials."""
