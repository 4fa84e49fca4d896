"""Typed, sealed records above an engine, and the view fed by its watch."""
