"""The questions: what a user asks, as commands and experiments."""
