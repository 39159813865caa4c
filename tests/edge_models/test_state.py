"""The snapshot container."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_models.state import array_text, pack, text_array, unpack
from schemas.errors import StateMismatch

ARRAYS = {
    "level": np.array([1.5, np.nan, -np.inf, 5e-324]),
    "when": np.array([[1, -(2**63)], [2**63 - 1, 0]]),
    "on": np.array([True, False]),
    "none": np.empty((0, 4)),
    "small": np.arange(3, dtype=np.int8),
}


def test_arrays_come_back_bit_for_bit_and_writable() -> None:
    back = unpack(pack("drift", 3, "p", ARRAYS), "drift", 3, "p")
    assert list(back) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()
        back[name][...] = 0


@pytest.mark.parametrize(("kind", "version", "parameters"), [("stuck", 3, "p"), ("drift", 2, "p"), ("drift", 3, "q")])
def test_another_kind_version_or_parameter_set_is_refused(kind: str, version: int, parameters: str) -> None:
    with pytest.raises(StateMismatch, match="the stored state has"):
        unpack(pack("drift", 3, "p", ARRAYS), kind, version, parameters)


@given(st.data())
def test_any_damage_is_noticed(data: st.DataObject) -> None:
    state = pack("drift", 3, "p", ARRAYS)
    if data.draw(st.booleans()):
        broken = state[: data.draw(st.integers(0, len(state) - 1))]
    else:
        at = data.draw(st.integers(0, len(state) - 1))
        broken = state[:at] + bytes([state[at] ^ data.draw(st.integers(1, 255))]) + state[at + 1 :]
    with pytest.raises(StateMismatch):
        unpack(broken, "drift", 3, "p")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(state: bytes) -> None:
    with pytest.raises(StateMismatch):
        unpack(state, "drift", 3, "p")


@pytest.mark.parametrize("header", [b"{", b"\xff\xfe", b"[]", b"{}", b'{"kind": "drift", "version": 3, "parameters": "p"}'])
def test_a_header_that_says_nothing_is_refused_though_its_check_is_right(header: bytes) -> None:
    body = b"GBS1" + struct.pack("<I", len(header)) + header
    with pytest.raises(StateMismatch):
        unpack(body + struct.pack("<I", zlib.crc32(body)), "drift", 3, "p")


def test_objects_are_never_stored() -> None:
    with pytest.raises(TypeError, match="a state holds no object"):
        pack("drift", 1, "", {"bad": np.array([{}], dtype=object)})


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_as_array(text: str) -> None:
    assert array_text(text_array(text)) == text


def test_damaged_text_is_a_mismatch() -> None:
    with pytest.raises(StateMismatch):
        array_text(np.array([0xFF, 0xFE], dtype=np.uint8))
