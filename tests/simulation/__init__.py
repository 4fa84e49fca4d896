"""The session core against a naive manager, over a network that a seed or Hypothesis decides."""
