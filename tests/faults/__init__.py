"""Faults against a whole running cluster, and what must hold through them."""
