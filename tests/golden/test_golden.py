"""Every folder here is a device as it once was: a capture, and the readings that it must decode to for ever.

`genba decode FILE --golden tests/golden/NAME` makes one; look at `expected.json` before it is committed. The folders were made from the
simulators with values that go wrong easily; those of the field are added the same way.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.playback import read_capture
from gateway.decoding import decode
from gateway.golden import CAPTURE, expectation, read_expected

FOLDERS = sorted(folder.parent for folder in Path(__file__).parent.glob(f"*/{CAPTURE}"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_captured_device_decodes_to_what_is_expected(folder: Path) -> None:
    capture = read_capture(folder / CAPTURE)
    found = json.loads(json.dumps(expectation(decode(capture))))
    expected = read_expected(folder)
    for part in ("readings", "gaps", "troubles", "log"):
        assert found[part] == expected[part]
    assert not capture.torn


def test_there_is_one_of_each_protocol() -> None:
    kinds = {read_capture(folder / CAPTURE).head["entry"]["kind"] for folder in FOLDERS}
    assert kinds >= {"modbus", "opcua", "s7"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_control_answers_of_nothing_but_zeros_are_not_what_is_expected(folder: Path) -> None:
    capture = read_capture(folder / CAPTURE)
    for session in capture.sessions:
        for one in [one for poll in [session.first, *session.polls] for one in poll.exchanges]:
            one.answer = one.answer and bytes(len(one.answer))
    assert expectation(decode(capture))["readings"] != read_expected(folder)["readings"]
