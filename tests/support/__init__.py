"""Fakes for the ports (clock, entropy, network) and the real parts that several suites start."""
