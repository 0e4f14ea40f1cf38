"""The decisions: one policy, one file."""
