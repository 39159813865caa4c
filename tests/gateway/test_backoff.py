"""Full-jitter back-off: bounded, growing, and started anew after a success."""

from __future__ import annotations

import random

from gateway.backoff import Backoff


def test_waits_grow_to_the_bound_and_never_pass_it():
    backoff = Backoff(random.Random(3), first_s=0.5, max_s=8.0)
    waits = [backoff.next_s() for _ in range(2000)]
    assert all(0.0 < wait <= 8.0 for wait in waits)
    assert all(wait <= 0.5 * 2**n for n, wait in enumerate(waits[:4]))
    assert max(waits) > 7.5
    assert min(waits[10:]) >= 0.8


def test_two_gateways_do_not_return_together():
    a, b = Backoff(random.Random(1)), Backoff(random.Random(2))
    assert [a.next_s() for _ in range(5)] != [b.next_s() for _ in range(5)]


def test_a_success_starts_it_anew():
    backoff = Backoff(random.Random(3), first_s=0.5, max_s=60.0)
    for _ in range(50):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= 0.5
