"""The short tier of the power loss part, with its controls."""

from __future__ import annotations

from .power import run


def test_no_state_that_a_power_cut_may_leave_loses_an_acknowledged_row():
    proof = run(7, True, states=500, control_states=200)
    assert proof.complaints() == []
    assert proof.figures["states"] >= 500
