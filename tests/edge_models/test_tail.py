"""The tail of a Gaussian is right where it matters: far out."""

from __future__ import annotations

from math import erfc, sqrt

import numpy as np
import pytest

from edge_models.tail import gaussian_tail


@pytest.mark.parametrize("z", [0.0, 0.3, 1.0, 2.0, 3.0, 4.75, 6.0, 8.0, 20.0])
def test_the_tail_is_right_to_a_relative_0_3_percent(z: float) -> None:
    exact = 0.5 * erfc(z / sqrt(2))
    found, below = gaussian_tail(np.array([z, -z]))
    assert found == pytest.approx(exact, rel=0.003)
    assert below == pytest.approx(1 - exact, rel=0.003)
