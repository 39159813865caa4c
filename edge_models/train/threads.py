"""Training in one thread: the same model whatever the machine, and matrices this small are slower with several, much slower on a busy one."""

from __future__ import annotations

from contextlib import AbstractContextManager


def single_thread() -> AbstractContextManager[object]:
    """Within it OpenMP and the BLAS library of scikit-learn and numpy have one thread."""
    # Only libraries that are loaded are limited: trees and networks are imported before.
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits
