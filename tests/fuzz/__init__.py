"""Fuzzing: what every decoder may raise, and what it may say."""
