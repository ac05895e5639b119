"""From ties to channels to groups."""
