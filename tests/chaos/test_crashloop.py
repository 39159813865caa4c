"""The short tier of the crash loop, with its controls: more than a hundred kills of the whole gateway. See docs/reliability.md."""

from __future__ import annotations

import pytest

from .crashloop.loop import play

pytestmark = [pytest.mark.e2e, pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.allow_blocking(reason="the gateways are processes of their own")
def test_no_kill_of_the_gateway_loses_an_acknowledged_row_or_delivers_one_twice_to_a_lake():
    proof = play(7, kills=100, gateways=2, longest_nth=3, control_kills=3)
    assert proof.complaints() == []
    assert proof.figures["kills"] >= 100
    assert proof.figures["rows_acknowledged"] > 5_000
