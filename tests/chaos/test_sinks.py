"""A piece of the sink faults, with their controls."""

from __future__ import annotations

import pytest

from tests.chaos import sinks
from tests.chaos.day.stands import small_disks
from tests.conftest import missing


@pytest.mark.timeout(300)
def test_faults_of_every_sink_lose_and_double_nothing_and_the_controls_are_found() -> None:
    if not small_disks():
        missing("no user namespaces here, so no small disk")
    proof = sinks.run(7, quick=True, most=1)
    assert not proof.complaints()
    assert proof.figures["faults"] >= 10


def test_a_kind_of_sink_without_faults_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sinks.STANDS, "kinesis")
    assert list(sinks.missing_stands()) == ["the sink kinesis has no stand-in and no faults: tests/chaos/sink_stands.py"]
