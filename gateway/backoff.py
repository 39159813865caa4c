"""How long to wait before the next try: exponential with full jitter, so that a thousand clients do not return together."""

from __future__ import annotations

import random


class Backoff:
    """Full jitter (uniform between a tenth of the bound and the bound); the bound doubles from `first_s` to `max_s`."""

    def __init__(self, rng: random.Random, *, first_s: float = 0.5, max_s: float = 30.0) -> None:
        self._rng, self._first_s, self._max_s = rng, first_s, max_s
        self.failures = 0

    def next_s(self) -> float:
        """Seconds to wait after one more failure."""
        bound: float = min(self._max_s, self._first_s * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return self._rng.uniform(bound / 10, bound)

    def reset(self) -> None:
        """Call after a success."""
        self.failures = 0
