"""`SeededEntropy`: draws that a seed replays. Never for anything but tests: it is predictable."""

import random


class SeededEntropy:
    """A `cluster.system.Entropy` that gives the same draws for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._source = random.Random(seed)

    def token(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        return self._source.randbytes(size)

    def uniform(self, low: float, high: float) -> float:
        """Return the next draw in [low, high]."""
        return self._source.uniform(low, high)
