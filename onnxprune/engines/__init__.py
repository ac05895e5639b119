"""What engines compute fast, and measured times as data."""
