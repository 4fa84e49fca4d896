"""Use cases an operator asks for."""
